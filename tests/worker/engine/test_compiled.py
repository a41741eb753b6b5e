"""Compiled steps: the tokens stay those of `model.generate`, and what cannot be compiled is said or left out."""

import copy
import gc
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from gpu_worker.adapters.files import AdapterReader
from gpu_worker.engine.build import BuiltEngine, build_engine
from gpu_worker.engine.packing import Product, pack_all
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.kernels.native import build_library, find_maxima, get_library_path, load_library
from gpu_worker.protocol import AdapterRef, Sampling
from tests.process_memory import count_heap_bytes, count_resident_bytes
from tests.tiny_adapters import make_adapter
from tests.tiny_models import FALLBACK, make_model
from tests.worker.engine.driving import generate, make_config, make_prompt, make_request, run_all, run_mixed
from tests.worker.engine.test_exactness import make_traffic
from tests.worker.engine.test_speculation import guess_well

COMPILE_TIMEOUT_S = 600  # on two busy cores
needs_minutes = [pytest.mark.slow, pytest.mark.timeout(COMPILE_TIMEOUT_S)]


def build(architecture: str, cache: Path, dtype: torch.dtype = torch.float32, **changes: object) -> BuiltEngine:
    model = copy.deepcopy(make_model(architecture, dtype))
    return build_engine(model, make_config(compile_cache=str(cache), **changes))


def describe(built: BuiltEngine) -> str:
    assert built.acceleration is not None
    return built.acceleration.describe()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the file: the native library is built once, and every artifact."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize("architecture", [pytest.param(a, marks=needs_minutes, id=a) for a in
                                          ("qwen2", "gemma2", "gpt_oss", "mixtral", "phi3")])  # fmt: skip
def test_greedy_equals_generate_compiled(architecture: str, cache: Path) -> None:
    """Arrivals at any time, preemption, chunks, shared prefixes, guesses; windows, soft caps, sinks and experts."""
    built = build(architecture, cache, compile="on", num_blocks=24, speculation="ngram")
    assert describe(built) == "a compiled forward pass"
    engine, rng = built.engine, random.Random(11)
    assert isinstance(engine, PagedEngine)
    requests = make_traffic(rng)
    expected = {request.id: generate(make_model(architecture), request) for request in requests}
    guess_well(engine, expected, random.Random(12))
    for outputs in run_mixed(engine, requests, rng):
        assert not [output.error for output in outputs if output.error]
    assert sum(request.num_preemptions for request in requests) > 0
    assert engine.stats().num_accepted_tokens > 0
    assert {request.id: request.output_token_ids for request in requests} == expected


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_what_was_compiled_is_found_again(cache: Path) -> None:
    """A second start takes up the artifact at once; other weights of the same shapes use the same one."""
    model = copy.deepcopy(make_model("llama"))
    build_engine(copy.deepcopy(model), make_config(compile="on", compile_cache=str(cache)))
    num_files = len(list(cache.iterdir()))
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    built = build_engine(copy.deepcopy(model), make_config(compile="auto", compile_cache=str(cache)))
    assert describe(built) == "a compiled forward pass"
    assert len(list(cache.iterdir())) == num_files
    request = make_request("r", make_prompt(random.Random(0), 9))
    run_all(built.engine, [request])
    assert request.output_token_ids == generate(model, request)


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_steps_with_an_adapter_call_the_packed_layers_and_others_the_compiled_forward(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build("qwen2", cache, compile="on")
    assert isinstance(built.engine, PagedEngine)
    adapted = make_adapter(make_model("qwen2"), tmp_path)
    adapter = AdapterReader(built.targets).read(AdapterRef("tuned", str(tmp_path)))
    num_calls = 0
    compiled = built.engine._runner.compiled

    def count(*args: torch.Tensor) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        return compiled(*args)

    monkeypatch.setattr(built.engine._runner, "compiled", count)
    prompts = [make_prompt(random.Random(seed), 20 + seed) for seed in range(6)]
    tuned = [make_request(f"t{i}", p, adapter=adapter, cache_salt="t") for i, p in enumerate(prompts)]
    plain = [make_request(f"p{i}", p) for i, p in enumerate(prompts)]
    run_all(built.engine, tuned[:3])
    assert num_calls == 0
    num_steps = built.engine.stats().num_steps
    run_all(built.engine, plain[:3])
    assert num_calls == built.engine.stats().num_steps - num_steps > 0
    run_all(built.engine, [*tuned[3:], *plain[3:]])
    for request in (*tuned, *plain):
        model = adapted if request.adapter is not None else make_model("qwen2")
        assert request.output_token_ids == generate(model, request)


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_a_compiled_forward_with_other_logits_is_not_used(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model whose activation is another one finds the artifact of its configuration: it computes something else."""
    wrong = copy.deepcopy(make_model("qwen2"))
    for layer in wrong.model.layers:
        layer.mlp.act_fn = torch.nn.Tanh()
    built = build("qwen2", cache, compile="on")
    assert built.acceleration is not None
    suspicious = build_engine(wrong, make_config(compile="auto", compile_cache=str(cache)))
    assert describe(suspicious) == "native attention and packed weights"
    assert "differ" in caplog.text
    request = make_request("r", make_prompt(random.Random(0), 9))
    run_all(suspicious.engine, [request])
    assert request.finish_reason is not None


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_bfloat16_is_compiled_and_reproducible(cache: Path) -> None:
    built = build("qwen2", cache, torch.bfloat16, compile="on")
    assert describe(built) == "a compiled forward pass"
    prompt = make_prompt(random.Random(3), 30)
    answers = []
    for _ in range(2):
        request = make_request("r", prompt)
        run_all(built.engine, [request])
        answers.append(request.output_token_ids)
    assert answers[0] == answers[1]


def read_logprobs(built: BuiltEngine, prompt: list[int]) -> dict[int, float]:
    """Of the likeliest first tokens."""
    request = make_request("r", prompt, sampling=Sampling(seed=0, temperature=0.0, top_logprobs=20), max_tokens=1)
    outputs = run_all(built.engine, [request])
    (logprobs,) = [output.logprobs for output in outputs if output.logprobs is not None]
    return dict(zip(logprobs.top_token_ids, logprobs.top_logprobs, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "gpt_oss"])
def test_padded_prompts_in_bfloat16_have_the_logits_of_plain_torch(
    architecture: str, cache: Path, tmp_path: Path
) -> None:
    """Long chunks, with and without a past, under windows, soft caps and sinks.

    The operators alone: what is compiled rounds elsewhere.
    """
    build_library(cache)
    shutil.copy(get_library_path(cache), get_library_path(tmp_path))
    sizes = {"max_num_batched_tokens": 64, "max_model_len": 160, "prefix_cache": False}
    native = build(architecture, tmp_path, torch.bfloat16, compile="auto", **sizes)
    assert describe(native) == "native attention and packed weights"
    plain = build(architecture, tmp_path, torch.bfloat16, compile="off", **sizes)
    for length in (33, 64, 75, 140):
        prompt = make_prompt(random.Random(length), length)
        expected, found = read_logprobs(plain, prompt), read_logprobs(native, prompt)
        common = expected.keys() & found.keys()
        assert len(common) > 10
        assert [found[i] for i in common] == pytest.approx([expected[i] for i in common], abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_lengths_of_prompts_leave_nothing_in_memory(cache: Path) -> None:
    """Kernels are made for a shape and kept: there must not be one for every length, nor one for every known prefix."""
    build_library(cache)
    sizes = {"max_num_batched_tokens": 128, "max_model_len": 200, "num_blocks": 64}
    built = build("qwen2", cache, torch.bfloat16, compile="auto", **sizes)
    beginning = make_prompt(random.Random(1), 48)
    lengths = list(range(33, 120))
    random.Random(0).shuffle(lengths)

    def run(lengths: list[int]) -> None:
        for length in lengths:
            rest = make_prompt(random.Random(length), length)
            requests = [make_request("known", [*beginning, *rest], max_tokens=2), make_request("new", rest)]
            for request in requests:
                run_all(built.engine, [request])
        gc.collect()

    run([*range(1, 33), *lengths[:20]])  # as few rows as decodes have are kept one by one
    before = count_heap_bytes()
    run(lengths[20:])
    assert count_heap_bytes() - before < 4e6


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_dense_weights_are_given_back_as_they_are_packed(cache: Path, tmp_path: Path) -> None:
    load_library(build_library(cache))
    path = tmp_path / "weights"
    path.write_bytes(bytes(2 * 1024 * 2048))
    layer = nn.Linear(1024, 2048, bias=False)
    dense = torch.from_file(str(path), shared=False, size=1024 * 2048, dtype=torch.bfloat16).view(2048, 1024)
    layer.weight = nn.Parameter(dense, requires_grad=False)
    product = Product([layer])
    state = torch.ops.atrium.create_state([], [], -1)
    pack_all([product], state)
    assert count_resident_bytes(path) == 0
    torch.ops.atrium.free_state(state)


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_nothing_is_compiled_before_it_is_prepared(mode: str, tmp_path: Path) -> None:
    """A first start serves on plain torch."""
    built = build("qwen2", tmp_path, compile=mode)
    assert built.acceleration is None if mode == "off" else describe(built) == "plain torch"
    request = make_request("r", make_prompt(random.Random(0), 9))
    run_all(built.engine, [request])
    assert request.output_token_ids == generate(make_model("qwen2"), request)


def test_without_a_compiler_plain_torch_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build("qwen2", tmp_path, compile="auto").acceleration is None
    with pytest.raises(ValueError, match="no C\\+\\+ compiler"):
        build("qwen2", tmp_path, compile="on")


def test_what_cannot_be_compiled_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float16"):
        build("qwen2", tmp_path, torch.float16, compile="on")
    with pytest.raises(ValueError, match="fallback"):
        build(next(iter(FALLBACK)), tmp_path, compile="on")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_maxima_are_those_of_torch_with_ties_and_broken_rows(dtype: torch.dtype, cache: Path) -> None:
    load_library(build_library(cache))
    generator = torch.Generator().manual_seed(0)
    for vocab_size in (1, 31, 4096, 4097, 20_000):
        logits_RV = torch.randn(5, vocab_size, generator=generator).to(dtype)
        logits_RV[1] = logits_RV[1].round()  # hundreds of equal maxima, all over the row
        logits_RV[2] = -float("inf")
        logits_RV[3, vocab_size // 2] = float("nan")
        logits_RV[4, -1] = float("inf")
        values_R, indices_R = find_maxima(logits_RV)
        expected = logits_RV.float().max(dim=-1)
        assert torch.equal(values_R.isnan(), torch.tensor([False, False, False, True, False]))
        rows = [0, 1, 2, 4]
        assert torch.equal(values_R[rows], expected.values[rows])
        assert torch.equal(indices_R[rows], expected.indices[rows])
