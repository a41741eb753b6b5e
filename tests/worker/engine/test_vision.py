"""Prompts with pictures: greedy answers equal `model.generate`, whatever else happens in the engine."""

import copy
import functools
import random
from typing import Any

import numpy as np
import pytest

from gpu_worker.engine.build import BuiltEngine, build_engine
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.lifecycle import MEDIA_FAILED
from gpu_worker.engine.media import Media
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.pictures import MediaRef
from tests.parity_table import GREEDY, RecordProperty, record_parity
from tests.tiny_vision import FAMILIES, make_picture, make_vision_model
from tests.worker.engine.driving import make_config, run_all
from tests.worker.engine.seeing import Scene, build_reader, make_reader
from tests.worker.engine.test_speculation import guess_well

FAST = ["llava", "qwen2_vl", "gemma3"]
ALL = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in FAMILIES]
SMALL, WIDE = (24, 24), (40, 20)
NO_END: frozenset[int] = frozenset()


def build(family: str, **changes: Any) -> BuiltEngine:
    config = make_config(**{"max_model_len": 200, "num_blocks": 120} | changes)
    return build_engine(copy.deepcopy(make_vision_model(family)), config, make_reader(family).sample)


def make_scenes(family: str) -> list[Scene]:
    """Text first and picture first, several pictures, the same twice, text alone, shared beginnings."""
    question = "What do you see here? "
    parts: list[list[Any]] = [
        [question, (1, SMALL)],
        [(2, SMALL), question],
        [question, (3, SMALL), " and ", (4, WIDE), " end"],
        [question, "Nothing."],
        [(2, SMALL), question, "And then?"],
        [question, (1, SMALL), (1, SMALL), "!"] if "qwen" in FAMILIES[family]["processor"][0].lower() else ["Hm."],
        [question, (5, WIDE)],
        ["Just text, and some more of it."],
    ]
    return [Scene(family, part) for part in parts]


@pytest.mark.parametrize("family", ALL)
def test_greedy_equals_generate_in_mixed_batches(family: str, record_property: RecordProperty) -> None:
    """Random arrivals beside text, a pool so small that requests are preempted, cached beginnings, guessed tokens."""
    record_parity(record_property, f"{family} (pictures)", "paged", GREEDY)
    rng = random.Random(3)
    scenes = make_scenes(family)
    requests = [scene.make_request(str(i), max_tokens=20, eos_token_ids=NO_END) for i, scene in enumerate(scenes)]
    num_blocks = max(request.num_tokens + request.max_tokens for request in requests) // 4 + 4
    built = build(family, num_blocks=num_blocks, max_model_len=4 * num_blocks, speculation="ngram")
    assert isinstance(built.engine, PagedEngine), built.reason
    expected = {r.id: scene.generate(r) for scene, r in zip(scenes, requests, strict=True)}
    guess_well(built.engine, expected, random.Random(4))
    arriving = list(requests)
    failures = []
    while arriving or built.engine.has_work():
        for _ in range(min(rng.choice([0, 1, 3]), len(arriving))):
            built.engine.add(arriving.pop(0))
        failures += [output.error for output in built.engine.step() if output.error]
        built.engine.check_integrity()
    assert not failures
    assert sum(request.num_preemptions for request in requests) > 0
    assert built.engine.stats().num_accepted_tokens > 0
    assert {request.id: request.output_token_ids for request in requests} == expected
    assert built.engine.stats().free_blocks == built.engine.stats().num_blocks


@pytest.mark.parametrize("family", ALL)
def test_the_fallback_is_exact_too(family: str) -> None:
    built = build(family, engine="fallback")
    assert isinstance(built.engine, FallbackEngine)
    scenes = make_scenes(family)
    requests = [scene.make_request(str(i), max_tokens=8) for i, scene in enumerate(scenes)]
    run_all(built.engine, requests)
    for scene, request in zip(scenes, requests, strict=True):
        assert request.output_token_ids == scene.generate(request)


@pytest.mark.parametrize("engine", ["auto", "fallback"])
@pytest.mark.parametrize("family", FAST)
def test_a_resumed_answer_continues_exactly(family: str, engine: str) -> None:
    """Also where the answer so far holds the token that stands for pictures."""
    built = build(family, engine=engine)
    scene = Scene(family, [(7, SMALL), "Go on"])
    token = next(iter(make_reader(family)._token_ids))
    whole = scene.make_request("whole", eos_token_ids=NO_END)
    run_all(built.engine, [whole])
    for cut in (1, 7):
        resumed = scene.make_request(str(cut), eos_token_ids=NO_END, output_token_ids=whole.output_token_ids[:cut])
        run_all(built.engine, [resumed])
        assert resumed.output_token_ids == whole.output_token_ids
    odd = scene.make_request("odd", eos_token_ids=NO_END, output_token_ids=[65, token, 66])
    outputs = run_all(built.engine, [odd])
    assert not [output.error for output in outputs if output.error]
    assert len(odd.output_token_ids) == odd.max_tokens


def test_the_prefix_cache_tells_pictures_of_equal_size_apart() -> None:
    engine = build("llava").engine
    behind = "Tell me what is in it, please."
    for seed, num_cached in ((1, False), (1, True), (2, False), (2, True), (1, True)):
        scene = Scene("llava", ["Look: ", (seed, SMALL), behind])
        request = scene.make_request(f"{seed}{num_cached}")
        run_all(engine, [request])
        assert (request.num_cached_tokens > 0) is num_cached
        assert request.output_token_ids == scene.generate(request)


def test_a_cached_picture_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build("qwen2_vl").engine
    num_passes = []
    forward = engine._media_runner.forward
    monkeypatch.setattr(engine._media_runner, "forward", lambda batch: num_passes.append(1) or forward(batch))
    first = Scene("qwen2_vl", [(1, SMALL), "A long enough question."])
    second = Scene("qwen2_vl", [(1, SMALL), "A long enough question. And another one?"])
    third = Scene("qwen2_vl", [(1, SMALL), "A long enough question.", (2, SMALL)])
    for scene, num_expected in ((first, 1), (second, 1), (third, 2)):
        request = scene.make_request(scene.text)
        run_all(engine, [request])
        assert len(num_passes) == num_expected
        assert request.output_token_ids == scene.generate(request)


def test_text_before_a_picture_is_shared_with_text() -> None:
    engine = build("gemma3").engine
    run_all(engine, [Scene("gemma3", ["The same beginning. ", (1, SMALL)]).make_request("picture")])
    scene = Scene("gemma3", ["The same beginning. No picture."])
    request = scene.make_request("text")
    run_all(engine, [request])
    assert request.num_cached_tokens == 20
    assert request.output_token_ids == scene.generate(request)


@pytest.mark.parametrize("engine", ["auto", "fallback"])
def test_pictures_the_model_cannot_take_end_their_request_only(engine: str) -> None:
    """Fewer features than tokens: the model's own code raises."""
    built = build("llava", engine=engine)
    scene = Scene("llava", [(1, SMALL), "Fine."])
    good, bad = scene.make_request("good"), scene.make_request("bad")
    assert bad.media is not None
    inputs: dict[str, np.ndarray] = {"pixel_values": bad.media.inputs["pixel_values"][:0]}
    bad.media = Media(inputs, (bad.media.spans[0]._replace(digest="bad"),))
    outputs = run_all(built.engine, [good, bad])
    assert [(output.request.id, output.error) for output in outputs if output.error] == [("bad", MEDIA_FAILED)]
    assert good.output_token_ids == scene.generate(good)
    assert built.engine.stats().free_blocks == built.engine.stats().num_blocks


def test_pictures_that_wait_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_worker.frontend.media.MAX_LIVE_BYTES", 1)
    reader = build_reader("llava")
    pieces, refs, files = ["<image> Fine."], [MediaRef("key", "picture")], {"key": make_picture(1)}
    waiting = reader.read(pieces, refs, files)
    with pytest.raises(RequestRejected) as rejection:
        reader.read(pieces, refs, files)
    assert rejection.value.code == "overloaded"
    del waiting
    reader.read(pieces, refs, files)


def test_different_logits_with_pictures_are_noticed() -> None:
    """A model that numbers positions wrongly behind a picture is right for text: pictures must be tried too."""
    model = copy.deepcopy(make_vision_model("qwen2_vl"))
    find = model.model.get_rope_index

    @functools.wraps(find)
    def find_wrongly(*args: Any, **kwargs: Any) -> Any:
        positions, deltas = find(*args, **kwargs)
        return positions, deltas + 3

    model.model.get_rope_index = find_wrongly
    built = build_engine(model, make_config(), make_reader("qwen2_vl").sample)
    assert built.kind == "fallback"
    assert "with pictures" in built.reason
