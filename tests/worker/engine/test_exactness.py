"""Greedy answers equal `model.generate` and seeded ones those given alone, whatever else happens in the engine."""

import random

import pytest

from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.protocol import Sampling
from tests.parity_table import GREEDY, SEEDED, RecordProperty, record_parity, record_traffic
from tests.tiny_models import EOS_TOKEN_ID, FALLBACK, PAGED, make_model
from tests.worker.engine.driving import generate, make_engine, make_prompt, make_request, run_all, run_mixed

FAST = ["qwen2", "gemma2", "gpt_oss", "mixtral", "gpt2"]
ARCHITECTURES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in (*PAGED, *FALLBACK)
]
NUM_REQUESTS = 14


def make_traffic(rng: random.Random) -> list[Request]:
    """Prompts of 1 to 42 tokens, a third of which share a long beginning, from three users; half may end early."""
    shared = make_prompt(rng, 22)
    requests = []
    for index in range(NUM_REQUESTS):
        prompt = make_prompt(rng, rng.choice([1, 3, 5, 9, 17, 40]))
        if index % 3 == 0:
            prompt = shared + prompt[:20]
        eos = frozenset({EOS_TOKEN_ID}) if index % 2 else frozenset()
        max_tokens = rng.choice([1, 8, 24, 40])
        requests.append(
            make_request(str(index), prompt, max_tokens=max_tokens, eos_token_ids=eos, user=f"user{index % 3}")
        )
    return requests


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_in_mixed_batches(architecture: str, record_property: RecordProperty) -> None:
    """Random arrivals, a pool so small that requests are preempted, prompts in chunks, shared prefixes, aborts."""
    record_parity(record_property, architecture, find_path(architecture), GREEDY)
    rng = random.Random(7)
    engine = make_engine(architecture, num_blocks=24)
    assert isinstance(engine, PagedEngine if architecture in PAGED else FallbackEngine)
    requests = make_traffic(rng)
    aborted = {request.id for request in rng.sample(requests, 3)}
    cut: set[str] = set()
    failures = []
    for outputs in run_mixed(engine, requests, rng):
        failures += [output.error for output in outputs if output.error]
        cut |= {r.id for r in requests if r.num_cached_tokens < r.num_computed_tokens < len(r.prompt_token_ids)}
        for request in requests:
            if request.id in aborted and len(request.output_token_ids) >= 2:
                engine.abort(request.id)

    assert not failures
    if isinstance(engine, PagedEngine):
        num_preemptions = sum(request.num_preemptions for request in requests)
        num_cached = sum(request.num_cached_tokens for request in requests)
        assert min(num_preemptions, num_cached, len(cut)) > 0
        record_traffic(record_property, preemptions=num_preemptions, cached_tokens=num_cached, cut_prompts=len(cut))
    model = make_model(architecture)
    for request in requests:
        expected = generate(model, request)
        if request.finish_reason == "abort":
            assert request.output_token_ids == expected[: len(request.output_token_ids)]
        else:
            assert request.output_token_ids == expected
    assert engine.stats().free_blocks == engine.stats().num_blocks


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_seed_gives_the_same_answer_alone_and_in_mixed_batches(
    architecture: str, record_property: RecordProperty
) -> None:
    """Temperature, top-k and top-p, under the same conditions; then each request again, with nobody beside it."""
    record_parity(record_property, architecture, find_path(architecture), SEEDED)
    rng = random.Random(17)
    requests = make_traffic(rng)[:8]
    for index, request in enumerate(requests):
        top_p = 0.9 if index % 2 else 1.0
        request.sampling = Sampling(seed=index, temperature=1.2, top_k=12, top_p=top_p)
        request.max_tokens = min(request.max_tokens, 16)
    for _ in run_mixed(make_engine(architecture, num_blocks=24), requests, rng):
        pass
    quiet = make_engine(architecture)
    for request in requests:
        alone = make_request(
            request.id,
            request.prompt_token_ids,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            eos_token_ids=request.eos_token_ids,
        )
        run_all(quiet, [alone])
        assert alone.output_token_ids == request.output_token_ids
    assert len({tuple(request.output_token_ids) for request in requests}) > 1


def find_path(architecture: str) -> str:
    return "paged" if architecture in PAGED else "fallback"
