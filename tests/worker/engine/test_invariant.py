"""Batch-invariant mode: the same bits alone and in any batch, in bf16, where rounding is coarse enough to show."""

import copy
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gpu_worker.engine.batch import Batch
from gpu_worker.engine.build import build_engine
from gpu_worker.engine.invariant import TILE_ROWS, InvariantRunner
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.protocol import Sampling
from tests.tiny_models import FALLBACK, make_model
from tests.worker.engine.driving import generate, make_config, make_prompt, make_request, run_all, run_mixed
from tests.worker.engine.test_exactness import make_traffic
from tests.worker.engine.test_speculation import guess_well
from tests.worker_process import DEMO_MODEL

# Dense ones: windows, soft caps, biases, other norms and layouts among them.
DENSE = ["qwen2", "gemma2", "llama", "qwen3", "mistral", "gemma3_text", "phi3", "olmo2", "glm4", "cohere2", "stablelm",
         "starcoder2", "gpt2", "gpt_neox", "opt"]  # fmt: skip
EXPERTS = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3"]
BUILD_TIMEOUT_S = 600  # of the native library, on busy cores
needs_library = [pytest.mark.slow, pytest.mark.timeout(BUILD_TIMEOUT_S)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the file: the native library is built once."""
    return tmp_path_factory.mktemp("invariant")


class Witness:
    """Keeps the logits of every token by all that was before it, and wants the same bits whenever it comes again."""

    def __init__(self) -> None:
        self.num_seen_again = 0
        self._logits: dict[tuple[int, ...], torch.Tensor] = {}

    def watch(self, engine: PagedEngine) -> PagedEngine:
        """Look at every forward pass of the engine."""
        runner = engine._runner
        assert isinstance(runner, InvariantRunner)
        forward = runner.forward

        def look(batch: Batch) -> torch.Tensor:
            logits_RV = forward(batch)
            rows = iter(logits_RV)
            for request, _ in batch.sampled:
                tokens = [*request.get_token_ids(0, request.num_tokens), *request.draft_token_ids]
                for num_drafts in range(len(request.draft_token_ids), -1, -1):
                    self._compare(tuple(tokens[: len(tokens) - num_drafts]), next(rows))
            return logits_RV

        runner.forward = look  # type: ignore[method-assign]
        return engine

    def _compare(self, history: tuple[int, ...], logits_V: torch.Tensor) -> None:
        known_V = self._logits.setdefault(history, logits_V.clone())
        self.num_seen_again += known_V is not logits_V
        assert torch.equal(known_V, logits_V), f"other bits after {len(history)} tokens"


def build(model: torch.nn.Module, cache: Path, **changes: object) -> PagedEngine:
    config = make_config(**{"batch_invariant": True, "compile_cache": str(cache)} | changes)
    engine = build_engine(copy.deepcopy(model), config).engine
    assert isinstance(engine, PagedEngine)
    return engine


def make_requests(vocab_size: int) -> list[Request]:
    """Greedy and seeded ones in turn."""
    requests = make_traffic(random.Random(7))
    for index, request in enumerate(requests):
        request.prompt_token_ids = [token * 23 % vocab_size for token in request.prompt_token_ids]
        if index % 2:
            top_p = 0.9 if index % 3 else 1.0
            request.sampling = Sampling(seed=index, temperature=0.9, top_p=top_p, frequency_penalty=0.1)
    return requests


def check_invariance(model: torch.nn.Module, cache: Path, vocab_size: int, **changes: object) -> None:
    """Each request alone; then other chunks; then mixed arrivals in a pool that is too small, with guesses."""
    witness = Witness()
    crowded, cut, alone = (make_requests(vocab_size) for _ in range(3))
    quiet = witness.watch(build(model, cache, max_num_batched_tokens=96, prefix_cache=False, **changes))
    for request in alone:
        run_all(quiet, [request])
    expected = {request.id: request.output_token_ids for request in alone}
    run_all(witness.watch(build(model, cache, max_num_batched_tokens=9, max_num_seqs=3, **changes)), cut)
    engine = witness.watch(build(model, cache, num_blocks=24, speculation="ngram", **changes))
    guess_well(engine, expected, random.Random(4))
    for outputs in run_mixed(engine, crowded, random.Random(3)):
        assert not [output.error for output in outputs if output.error]
    assert {request.id: request.output_token_ids for request in cut} == expected
    assert {request.id: request.output_token_ids for request in crowded} == expected
    assert sum(request.num_preemptions for request in crowded) > 0
    assert sum(request.num_cached_tokens for request in crowded) > 0
    assert engine.stats().num_accepted_tokens > 0
    assert witness.num_seen_again > sum(map(len, expected.values()))


@pytest.mark.parametrize("architecture", [pytest.param(name, marks=needs_library, id=name) for name in DENSE])
def test_a_request_gets_the_same_bits_alone_and_in_any_batch(architecture: str, cache: Path) -> None:
    check_invariance(make_model(architecture, torch.bfloat16), cache, vocab_size=97)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_demo_model_gives_the_same_bits(num_threads: int, cache: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype="auto").eval()
    assert model.dtype == torch.bfloat16
    torch.set_num_threads(num_threads)
    try:
        check_invariance(model, cache, vocab_size=model.config.vocab_size)
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_compiled_steps_are_invariant_too(cache: Path) -> None:
    check_invariance(make_model("qwen2", torch.bfloat16), cache, vocab_size=97, compile="on")


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_in_float32_answers_are_those_of_generate(cache: Path) -> None:
    built = build_engine(
        copy.deepcopy(make_model("llama")), make_config(batch_invariant=True, compile_cache=str(cache))
    )
    assert "batch-invariant" in built.targets.obstacle, "adapters are refused"
    engine = built.engine
    requests = [make_request(str(n), make_prompt(random.Random(n), n)) for n in (1, TILE_ROWS, TILE_ROWS + 1, 40)]
    run_all(engine, requests)
    for request in requests:
        assert request.output_token_ids == generate(make_model("llama"), request)


@pytest.mark.parametrize("architecture", EXPERTS)
def test_experts_are_refused(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_invariant .* experts"):
        build(make_model(architecture, torch.bfloat16), tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was built for it"


def test_what_cannot_be_invariant_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"batch_invariant .* fallback"):
        build(make_model(next(iter(FALLBACK))), tmp_path)
    with pytest.raises(ValueError, match=r"batch_invariant .* float16"):
        build(make_model("qwen2", torch.float16), tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"batch_invariant .* C\+\+ compiler"):
        build(make_model("qwen2", torch.bfloat16), tmp_path)


def test_a_layer_that_is_not_given_every_token_is_refused(tmp_path: Path) -> None:
    class Half(torch.nn.Module):
        """Two layers, each for the tokens at every other place."""

        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.even, self.odd = linear, copy.deepcopy(linear)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = x.new_empty(*x.shape[:-1], self.even.out_features)
            out[:, ::2], out[:, 1::2] = self.even(x[:, ::2]), self.odd(x[:, 1::2])
            return out

    model = copy.deepcopy(make_model("llama", torch.bfloat16))
    model.model.layers[1].mlp.up_proj = Half(model.model.layers[1].mlp.up_proj)
    with pytest.raises(ValueError, match=r"up_proj\.even"):
        build(model, tmp_path)


def test_numbers_that_are_rounded_by_their_place_are_refused(tmp_path: Path) -> None:
    """Three threads cut a wide layer's tile within a vector, and this activation is rounded otherwise at an end."""

    class Rough(torch.nn.GELU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + (0 if x.numel() > 64 else 1)

    Rough.__module__ = torch.nn.GELU.__module__
    config = copy.deepcopy(make_model("llama").config)
    config.intermediate_size = 4864
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.model.layers[1].mlp.act_fn = Rough()
    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match=r"3 threads its layer model.layers.1.mlp.act_fn"):
            build(model, tmp_path)
    finally:
        torch.set_num_threads(1)
