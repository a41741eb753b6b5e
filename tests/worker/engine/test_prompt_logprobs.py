"""Log-probabilities of prompts equal those of one plain forward pass, however the engine cut and mixed them."""

import math
import random

import pytest
import torch

from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import MAX_SCORED_TOKENS, Request, TokenLogprobs, TokenOutput
from tests.tiny_models import make_model
from tests.worker.engine.driving import generate, make_engine, make_prompt, make_request, run_all, run_mixed

ARCHITECTURES = ["qwen2", "gemma2", "gpt2", "falcon"]
NUM_TOP = 3


def collect(outputs: list[TokenOutput], request: Request) -> list[TokenLogprobs]:
    """What was said of its prompt, in order and without a gap."""
    entries: list[TokenLogprobs] = []
    for output in outputs:
        if output.request is request and output.prompt_logprobs is not None:
            assert output.prompt_start == len(entries)
            assert output.token_id is None
            assert len(output.prompt_logprobs) <= MAX_SCORED_TOKENS + 1
            entries += output.prompt_logprobs
    return entries


@torch.inference_mode()
def check(architecture: str, request: Request, entries: list[TokenLogprobs]) -> None:
    """Against transformers' own forward pass."""
    prompt = request.prompt_token_ids
    logits = make_model(architecture)(torch.tensor([prompt])).logits[0]
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    assert len(entries) == len(prompt)
    assert math.isnan(entries[0].logprob)
    assert entries[0].top_token_ids == []
    for position, entry in enumerate(entries[1:], start=1):
        expected = logprobs[position - 1]
        assert entry.logprob == pytest.approx(float(expected[prompt[position]]), abs=1e-3)
        top = expected.topk(NUM_TOP)
        assert entry.top_logprobs == pytest.approx(top.values.tolist(), abs=1e-3)
        assert len(entry.top_token_ids) == NUM_TOP


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_in_chunks_among_others_preempted_and_known(architecture: str) -> None:
    """Half of the requests ask, a pool so small that some are preempted, one prompt that was computed before."""
    rng = random.Random(3)
    engine = make_engine(architecture, num_blocks=24)
    known = make_prompt(rng, 40)
    run_all(engine, [make_request("known", known, max_tokens=2)])
    prompts = [known, known, *(make_prompt(rng, length) for length in (1, 2, 5, 33, 60, 17, 48))]
    requests = [
        make_request(str(index), prompt, prompt_logprobs=NUM_TOP if index % 2 else None, eos_token_ids=frozenset())
        for index, prompt in enumerate(prompts)
    ]
    outputs = [output for step in run_mixed(engine, requests, rng) for output in step]
    assert not [output.error for output in outputs if output.error]
    for request in requests:
        entries = collect(outputs, request)
        assert bool(entries) == (request.prompt_logprobs is not None)
        if entries:
            check(architecture, request, entries)
            assert request.num_cached_tokens == 0
        assert request.output_token_ids == generate(make_model(architecture), request)
    if isinstance(engine, PagedEngine):
        assert sum(request.num_preemptions for request in requests) > 0


@pytest.mark.parametrize("architecture", ["qwen2", "falcon"])
def test_no_token_need_be_asked_for(architecture: str) -> None:
    rng = random.Random(4)
    engine = make_engine(architecture)
    requests = [
        make_request(str(length), make_prompt(rng, length), prompt_logprobs=NUM_TOP, max_tokens=0)
        for length in (1, 2, 40)
    ]
    outputs = run_all(engine, requests)
    for request in requests:
        check(architecture, request, collect(outputs, request))
        assert [o.finish_reason for o in outputs if o.request is request and o.finish_reason] == ["length"]
        assert request.output_token_ids == []


def test_a_step_never_holds_more_rows_than_its_share() -> None:
    rng = random.Random(5)
    engine = make_engine("qwen2", num_blocks=400, max_num_batched_tokens=2048, max_model_len=250)
    requests = [
        make_request(str(index), make_prompt(rng, 60 * (index + 1)), prompt_logprobs=0, max_tokens=1)
        for index in range(4)
    ]
    for request in requests:
        engine.add(request)
    while engine.has_work():
        outputs = engine.step()
        assert sum(len(o.prompt_logprobs or ()) for o in outputs) <= MAX_SCORED_TOKENS + len(requests)
    assert all(request.num_scored == len(request.prompt_token_ids) for request in requests)
