"""How requests begin, resume and end, in both engines."""

import random

import pytest

from gpu_worker.engine.request import Request
from gpu_worker.protocol import FinishReason, Sampling
from tests.worker.engine.driving import GREEDY, make_engine, make_prompt, make_request, run_all

PROMPT = make_prompt(random.Random(3), 11)


@pytest.fixture(params=["qwen2", "bloom"], ids=["paged", "fallback"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


def answer(architecture: str, **fields: object) -> Request:
    request = make_request("r", list(PROMPT), **({"eos_token_ids": frozenset()} | fields))
    run_all(make_engine(architecture), [request])
    return request


def test_an_answer_ends_at_max_tokens(architecture: str) -> None:
    request = answer(architecture, max_tokens=7)
    assert (len(request.output_token_ids), request.finish_reason) == (7, "length")


def test_an_answer_ends_where_the_context_is_full(architecture: str) -> None:
    request = answer(architecture, max_tokens=1000)
    assert (request.num_tokens, request.finish_reason) == (96, "length")


def test_the_end_token_is_part_of_the_answer(architecture: str) -> None:
    free = answer(architecture).output_token_ids
    request = answer(architecture, eos_token_ids=frozenset({free[4]}))
    assert request.finish_reason == "stop"
    assert request.output_token_ids == free[: free.index(free[4]) + 1]


def test_a_stop_token_ends_the_answer(architecture: str) -> None:
    free = answer(architecture).output_token_ids
    request = answer(architecture, sampling=Sampling(seed=0, temperature=0.0, stop_token_ids=(free[3],)))
    assert request.finish_reason == "stop"
    assert request.output_token_ids == free[: free.index(free[3]) + 1]


def test_end_tokens_are_masked_before_min_tokens(architecture: str) -> None:
    free = answer(architecture).output_token_ids
    sampling = Sampling(seed=0, temperature=0.0, min_tokens=9)
    request = answer(architecture, sampling=sampling, eos_token_ids=frozenset(free), max_tokens=30)
    assert not set(request.output_token_ids[:9]) & set(free)


def test_stop_check_ends_the_answer_with_its_reason(architecture: str) -> None:
    def stop_after_three(request: Request) -> FinishReason | None:
        return "tool_calls" if len(request.output_token_ids) == 3 else None

    request = answer(architecture, stop_check=stop_after_three)
    assert (len(request.output_token_ids), request.finish_reason) == (3, "tool_calls")


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=5, temperature=1.3, frequency_penalty=0.4)])
def test_a_resumed_answer_continues_exactly(architecture: str, sampling: Sampling) -> None:
    """The tokens already sent count for seed, penalties and max_tokens, wherever the answer was cut."""
    whole = answer(architecture, sampling=sampling).output_token_ids
    for cut in (1, 5, 11):
        resumed = answer(architecture, sampling=sampling, output_token_ids=whole[:cut])
        assert resumed.output_token_ids == whole


def test_an_answer_that_had_ended_is_not_continued(architecture: str) -> None:
    cases = {"length": {"max_tokens": 2}, "stop": {"eos_token_ids": frozenset({8})}}
    for reason, fields in cases.items():
        request = make_request("r", list(PROMPT), output_token_ids=[7, 8], **fields)
        outputs = run_all(make_engine(architecture), [request])
        assert [(output.token_id, output.finish_reason) for output in outputs] == [(None, reason)]


def test_abort_frees_the_blocks_at_once(architecture: str) -> None:
    engine = make_engine(architecture, max_num_seqs=2)
    for index in range(3):
        engine.add(make_request(str(index), [10 + index, *PROMPT], max_tokens=50))
    engine.step()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (2, 1)
    assert engine.queue_position("2") == 0
    for index in range(3):
        output = engine.abort(str(index))
        assert output is not None
        assert output.finish_reason == "abort"
    assert engine.abort("0") is None
    assert not engine.has_work()
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.free_blocks) == (0, 0, stats.num_blocks)


def test_reset_fails_every_request(architecture: str) -> None:
    engine = make_engine(architecture, max_num_seqs=2)
    requests = [make_request(str(index), list(PROMPT)) for index in range(3)]
    for request in requests:
        engine.add(request)
    engine.step()
    outputs = engine.reset("broken")
    assert {output.request.id: output.error for output in outputs} == dict.fromkeys("012", "broken")
    again = make_request("again", list(PROMPT))
    run_all(engine, [again])
    assert len(again.output_token_ids) == 12
