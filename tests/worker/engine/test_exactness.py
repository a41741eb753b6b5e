"""Greedy answers equal `model.generate`, whatever else happens in the engine at the same time."""

import random

import pytest

from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from tests.tiny_models import EOS_TOKEN_ID, FALLBACK, PAGED, make_model
from tests.worker.engine.driving import generate, make_engine, make_prompt, make_request

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
def test_greedy_equals_generate_in_mixed_batches(architecture: str) -> None:
    """Random arrivals, a pool so small that requests are preempted, shared prefixes, requests aborted midway."""
    rng = random.Random(7)
    engine = make_engine(architecture, num_blocks=24)
    assert isinstance(engine, PagedEngine if architecture in PAGED else FallbackEngine)
    requests = make_traffic(rng)
    aborted = {request.id for request in rng.sample(requests, 3)}
    arriving = list(requests)
    failures = []
    while arriving or engine.has_work():
        for _ in range(min(rng.choice([0, 1, 2, 5]), len(arriving))):
            engine.add(arriving.pop(0))
        failures += [output.error for output in engine.step() if output.error]
        for request in requests:
            if request.id in aborted and len(request.output_token_ids) >= 2:
                engine.abort(request.id)
        if isinstance(engine, PagedEngine):
            engine.check_integrity()

    assert not failures
    if isinstance(engine, PagedEngine):
        assert sum(request.num_preemptions for request in requests) > 0
        assert sum(request.num_cached_tokens for request in requests) > 0
    model = make_model(architecture)
    for request in requests:
        expected = generate(model, request)
        if request.finish_reason == "abort":
            assert request.output_token_ids == expected[: len(request.output_token_ids)]
        else:
            assert request.output_token_ids == expected
    assert engine.stats().free_blocks == engine.stats().num_blocks
