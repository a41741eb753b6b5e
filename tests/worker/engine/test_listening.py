"""Prompts with recordings: greedy answers equal `model.generate`, whatever else happens in the engine."""

import copy
import random
from typing import Any

import pytest

from gpu_worker.engine.build import BuiltEngine, build_engine
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.pictures import MediaRef
from tests.recordings import make_recording
from tests.tiny_listening import FAMILIES, make_listening_model
from tests.worker.engine.driving import make_config, run_all
from tests.worker.engine.hearing import Sound, make_reader

PAGED = ["glmasr"]
LOW, HIGH = 10, 70  # seeds of recordings, and so their pitch
NO_END: frozenset[int] = frozenset()


def build(family: str, **changes: Any) -> BuiltEngine:
    config = make_config(**{"max_model_len": 300, "num_blocks": 160} | changes)
    return build_engine(copy.deepcopy(make_listening_model(family)), config, make_reader(family).sample)


def make_sounds(family: str) -> list[Sound]:
    """Text first and recording first, several, the same twice, text alone, shared beginnings."""
    question = "What do you hear? "
    parts: list[list[Any]] = [
        [question, (LOW, 0.5)],
        [(HIGH, 0.7), question],
        [question, "Nothing."],
        [(HIGH, 0.7), question, "And then?"],
        ["Just text, and some more of it."],
    ]
    if family != "glmasr":  # whose processor takes one recording for each text
        parts += [[question, (HIGH, 0.4), " and ", (LOW, 0.9), " end"], [(LOW, 0.5), (LOW, 0.5), "!"]]
    return [Sound(family, part) for part in parts]


@pytest.mark.parametrize("engine", ["auto", "fallback"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str, engine: str) -> None:
    built = build(family, engine=engine)
    is_paged = family in PAGED and engine == "auto"
    assert isinstance(built.engine, PagedEngine if is_paged else FallbackEngine), built.reason
    sounds = make_sounds(family)
    requests = [sound.make_request(str(i), max_tokens=10, eos_token_ids=NO_END) for i, sound in enumerate(sounds)]
    outputs = run_all(built.engine, requests)
    assert not [output.error for output in outputs if output.error]
    for sound, request in zip(sounds, requests, strict=True):
        assert request.output_token_ids == sound.generate(request)


@pytest.mark.parametrize("family", PAGED)
def test_greedy_equals_generate_in_mixed_batches(family: str) -> None:
    """Random arrivals beside text, a pool so small that requests are preempted, beginnings that are cached."""
    rng = random.Random(3)
    sounds = make_sounds(family)
    requests = [sound.make_request(str(i), max_tokens=20, eos_token_ids=NO_END) for i, sound in enumerate(sounds)]
    num_blocks = max(request.num_tokens + request.max_tokens for request in requests) // 4 + 4
    built = build(family, num_blocks=num_blocks, max_model_len=4 * num_blocks)
    arriving = list(requests)
    while arriving or built.engine.has_work():
        for _ in range(min(rng.choice([0, 1, 3]), len(arriving))):
            built.engine.add(arriving.pop(0))
        assert not [output.error for output in built.engine.step() if output.error]
        built.engine.check_integrity()
    assert sum(request.num_preemptions for request in requests) > 0
    for sound, request in zip(sounds, requests, strict=True):
        assert request.output_token_ids == sound.generate(request)


def test_the_prefix_cache_tells_recordings_of_equal_length_apart() -> None:
    engine = build("glmasr").engine
    for seed, num_cached in ((LOW, False), (LOW, True), (HIGH, False), (HIGH, True), (LOW, True)):
        sound = Sound("glmasr", ["Listen: ", (seed, 0.5), "Tell me what it is, please."])
        request = sound.make_request(f"{seed}{num_cached}")
        run_all(engine, [request])
        assert (request.num_cached_tokens > 0) is num_cached
        assert request.output_token_ids == sound.generate(request)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_recordings_are_told_apart_by_their_places(family: str) -> None:
    """Also where the library's own processor takes one for each text."""
    built = build(family)
    there, back = (Sound(family, [(first, 0.5), "or", (second, 0.8)]) for first, second in ((LOW, HIGH), (HIGH, LOW)))
    requests = [sound.make_request(sound.text + str(sound.parts)) for sound in (there, back)]
    outputs = run_all(built.engine, requests)
    assert not [output.error for output in outputs if output.error]
    assert requests[0].output_token_ids != requests[1].output_token_ids


BAD = {
    "noise": (b"RIFF1234WAVEnoise", "damaged"),
    "no sound": (b"\x89PNG\r\n\x1a\n", "no format"),
    "too long": (make_recording(3.0), "longer than 2 seconds"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recordings_are_refused_by_name(name: str) -> None:
    data, message = BAD[name]
    refs = [MediaRef("good", "messages[0].content[0]", "audio"), MediaRef("bad", "messages[0].content[1]", "audio")]
    token = FAMILIES["glmasr"]["token"]
    with pytest.raises(RequestRejected) as caught:
        make_reader("glmasr").read([token * 2], refs, {"good": make_recording(0.5), "bad": data})
    assert caught.value.param == "messages[0].content[1]"
    assert message in caught.value.message
