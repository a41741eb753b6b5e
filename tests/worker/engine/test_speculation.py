"""Guessed tokens: answers stay what they are without, whatever else happens; the guesses pay, or they stop."""

import copy
import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.engine.speculation import Drafter, find_continuation
from gpu_worker.protocol import FinishReason, Sampling
from tests.chain_model import build_empty_model
from tests.tiny_models import FALLBACK, PAGED, VOCAB_SIZE, make_model
from tests.worker.engine.driving import GREEDY, generate, make_config, make_engine, make_request, run_all, run_mixed
from tests.worker.engine.test_exactness import make_traffic

FAST = ["qwen2", "gemma2"]
ARCHITECTURES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in PAGED]
CIRCLE = list(range(10, 20))  # each of these tokens is followed by the next one, the last by the first
END = 3
NO_END: frozenset[int] = frozenset()


@functools.cache
def make_circle_model() -> PreTrainedModel:
    """Walks round the circle for ever: every guess is right once the circle has been seen."""
    model = build_empty_model(END).eval()
    with torch.no_grad():
        for token, following in zip(CIRCLE, CIRCLE[1:] + CIRCLE[:1], strict=True):
            model.lm_head.weight[following, token] = 0.45  # a logit of about 10
    return model


def make_circle_engine(**changes: object) -> PagedEngine:
    config = make_config(**{"speculation": "ngram", "max_model_len": 200, "num_blocks": 200} | changes)
    engine = build_engine(copy.deepcopy(make_circle_model()), config).engine
    assert isinstance(engine, PagedEngine)
    return engine


def walk(num_tokens: int, start: int = 0) -> list[int]:
    return [CIRCLE[(start + index) % len(CIRCLE)] for index in range(num_tokens)]


def guess_well(engine: PagedEngine, answers: dict[str, list[int]], rng: random.Random) -> None:
    """Let the engine's guesses be what is going to come, most of the time: random weights repeat too little."""

    def propose(request: Request, *, num_decodes: int, most: int) -> list[int]:
        num_known = len(request.output_token_ids)
        num_left = min(request.max_tokens - num_known, engine.max_model_len - request.num_tokens) - 1
        guess = answers[request.id][num_known:][: max(0, min(most, num_left, rng.randint(0, 7)))]
        return [token if rng.random() < 0.8 else (token + 1) % VOCAB_SIZE for token in guess]

    assert engine._drafter is not None
    engine._drafter.propose = propose  # type: ignore[method-assign]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_equals_generate_with_guesses(architecture: str) -> None:
    """Mixed arrivals, preemption, chunks, shared prefixes, ends that come inside a guess."""
    engine = make_engine(architecture, num_blocks=24, speculation="ngram")
    rng = random.Random(5)
    requests = make_traffic(rng)
    expected = {request.id: generate(make_model(architecture), request) for request in requests}
    assert isinstance(engine, PagedEngine)
    guess_well(engine, expected, rng)
    for outputs in run_mixed(engine, requests, rng):
        assert not [output.error for output in outputs if output.error]
    stats = engine.stats()
    assert stats.num_drafted_tokens > stats.num_accepted_tokens > 0
    assert sum(request.num_preemptions for request in requests) > 0
    assert {request.id: request.output_token_ids for request in requests} == expected
    assert stats.free_blocks == stats.num_blocks


# On the circle a guess is right with a probability of 60 to 98 %.
SAMPLINGS = [
    Sampling(seed=1, temperature=1.2),
    Sampling(seed=2, temperature=1.5, top_k=40, top_logprobs=3),
    Sampling(seed=3, temperature=1.3, top_p=0.95, frequency_penalty=0.3, presence_penalty=-0.3),
    Sampling(seed=4, temperature=0.0, repetition_penalty=1.2, top_logprobs=0),
    Sampling(seed=5, temperature=1.0, min_tokens=14, logit_bias={12: -4.0, END: 9.0}),
    Sampling(seed=6, temperature=1.4, min_p=0.001, stop_token_ids=(30, 31, 32, 33)),
]


@pytest.mark.parametrize("num_blocks", [200, 26], ids=["roomy", "scarce"])
def test_seeded_answers_are_those_without_guesses(num_blocks: int) -> None:
    """Every parameter of sampling, log-probabilities, two choices of one prompt, in one batch."""

    def make_requests() -> list[Request]:
        return [
            make_request(
                f"{index}-{choice}",
                walk(12 + index, index),
                sampling=SAMPLINGS[index % len(SAMPLINGS)],
                choice_index=choice,
                max_tokens=40,
                eos_token_ids=frozenset({END}),
                arrival_s=float(index),
            )
            for index in range(12)
            for choice in range(2)
        ]

    plain, guessed = make_requests(), make_requests()
    options = {"num_blocks": num_blocks, "max_model_len": 96}
    expected = collect(make_circle_engine(speculation="off", **options), plain)
    engine = make_circle_engine(**options)
    actual = collect(engine, guessed)
    stats = engine.stats()
    assert stats.num_drafted_tokens > stats.num_accepted_tokens > 200
    assert any(request.num_preemptions for request in guessed) == (num_blocks < 200)
    assert [request.output_token_ids for request in guessed] == [request.output_token_ids for request in plain]
    assert [request.finish_reason for request in guessed] == [request.finish_reason for request in plain]
    assert {request.finish_reason for request in plain} == {"stop", "length"}
    for request in plain:
        for one, other in zip(expected[request.id], actual[request.id], strict=True):
            assert (one.logprobs is None) == (other.logprobs is None)
            if one.logprobs is not None and other.logprobs is not None:
                assert other.logprobs.logprob == pytest.approx(one.logprobs.logprob, abs=1e-3)
                assert other.logprobs.top_token_ids[:1] == one.logprobs.top_token_ids[:1]


def collect(engine: PagedEngine, requests: list[Request]) -> dict[str, list[TokenOutput]]:
    """All outputs by request."""
    outputs: dict[str, list[TokenOutput]] = {request.id: [] for request in requests}
    for step_outputs in run_mixed(engine, requests, random.Random(2)):
        for output in step_outputs:
            outputs[output.request.id].append(output)
    return outputs


def test_right_guesses_save_steps() -> None:
    engine = make_circle_engine()
    request = make_request("r", walk(14), max_tokens=64, eos_token_ids=NO_END)
    run_all(engine, [request])
    assert request.output_token_ids == walk(64, 14)
    stats = engine.stats()
    assert stats.num_steps == 9  # the prompt, and eight tokens from each further step but the last
    assert stats.num_accepted_tokens == stats.num_drafted_tokens == 64 - 9


@pytest.mark.parametrize("max_tokens", [1, 2, 7, 8, 9, 20])
def test_an_answer_ends_at_max_tokens_inside_a_guess(max_tokens: int) -> None:
    request = make_request("r", walk(14), max_tokens=max_tokens, eos_token_ids=NO_END)
    run_all(make_circle_engine(), [request])
    assert (request.output_token_ids, request.finish_reason) == (walk(max_tokens, 14), "length")


@pytest.mark.parametrize("max_model_len", range(40, 46))
def test_an_answer_ends_where_the_context_is_full(max_model_len: int) -> None:
    """The last block of the pool is that of the last token: no guess may need another."""
    engine = make_circle_engine(max_model_len=max_model_len, num_blocks=-(-max_model_len // 4))
    request = make_request("r", walk(14), max_tokens=1000, eos_token_ids=NO_END)
    run_all(engine, [request])
    assert (request.num_tokens, request.finish_reason) == (max_model_len, "length")
    assert request.output_token_ids == walk(max_model_len - 14, 14)


@pytest.mark.parametrize("where", range(3, 11))
def test_an_end_inside_a_guess_ends_the_answer(where: int) -> None:
    """As an end token, and as what the frontend finds in the text. Nothing behind it was ever said."""
    expected = walk(where, 14)
    by_token = make_request("t", walk(14), max_tokens=50, eos_token_ids=frozenset({expected[-1]}))
    before = make_request("b", walk(14), max_tokens=50, sampling=GREEDY)

    def stop_there(request: Request) -> FinishReason | None:
        assert len(request.output_token_ids) <= where
        return "stop" if len(request.output_token_ids) == where else None

    by_text = make_request("s", walk(14), max_tokens=50, eos_token_ids=NO_END, stop_check=stop_there)
    outputs = run_all(make_circle_engine(), [by_token, by_text, before])
    assert by_token.output_token_ids == by_text.output_token_ids == expected
    assert by_token.finish_reason == by_text.finish_reason == "stop"
    for request in (by_token, by_text):
        own = [output for output in outputs if output.request is request]
        assert [output.token_id for output in own] == expected
        assert [output.finish_reason for output in own] == [None] * (where - 1) + ["stop"]


def test_wrong_guesses_leave_no_trace() -> None:
    """A prompt that breaks off its circle misleads; whoever continues it as guessed finds nothing in the cache."""
    engine = make_circle_engine()
    misleading = [*walk(9), 30, 31, *walk(8)]
    first = make_request("first", misleading, max_tokens=3, eos_token_ids=NO_END)
    run_all(engine, [first])
    assert first.output_token_ids == walk(3, 8)
    assert engine.stats().num_drafted_tokens > 0
    assert engine.stats().num_accepted_tokens == 0
    second = make_request("second", [*misleading, *walk(1, 8), 30, 31, *walk(8)], max_tokens=20, eos_token_ids=NO_END)
    run_all(engine, [second])
    assert second.num_cached_tokens == 20
    assert second.output_token_ids == walk(20, 8)


def test_auto_guesses_while_one_or_two_decode() -> None:
    for num_requests, is_guessing in ((1, True), (2, True), (3, False)):
        engine = make_circle_engine(speculation="auto", max_num_batched_tokens=64)
        requests = [
            make_request(str(i), walk(14, i), max_tokens=20, eos_token_ids=NO_END, arrival_s=0.0)
            for i in range(num_requests)
        ]
        run_all(engine, requests)
        assert [request.output_token_ids for request in requests] == [walk(20, 14 + i) for i in range(num_requests)]
        assert (engine.stats().num_accepted_tokens > 0) == is_guessing


def test_auto_gives_up_on_a_request_whose_guesses_are_wrong_and_tries_again_later() -> None:
    drafter, adaptive = Drafter("ngram", 4, 10_000), Drafter("auto", 4, 10_000)
    request = make_request("r", [1, 2, 3, 9] * 3, max_tokens=5000)
    tried: dict[Drafter, list[int]] = {drafter: [], adaptive: []}
    for _ in range(1000):
        for one, at in tried.items():
            if drafts := one.propose(request, num_decodes=1, most=100):
                at.append(request.num_tokens)
                one.learn(request, num_drafted=len(drafts), num_accepted=0)
        request.output_token_ids.append(1 + len(request.output_token_ids) % 3)
    assert len(tried[adaptive]) < len(tried[drafter]) / 20
    assert tried[adaptive][-1] > 400, "it goes on trying"
    for one in tried:
        one.forget(request)


def test_a_request_whose_guesses_are_right_is_guessed_for_in_every_step() -> None:
    drafter = Drafter("auto", 4, 10_000)
    request = make_request("r", walk(14), max_tokens=5000)
    for _ in range(100):
        drafts = drafter.propose(request, num_decodes=2, most=100)
        assert len(drafts) == 4
        request.output_token_ids += [*drafts, walk(1, request.num_tokens + 4)[0]]
        drafter.learn(request, num_drafted=4, num_accepted=4)
    assert (drafter.num_drafted, drafter.num_accepted) == (400, 400)


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 2), min_size=1, max_size=40), limit=st.integers(1, 9))
def test_what_followed_the_longest_end_that_was_there_before_is_drafted(tokens: list[int], limit: int) -> None:
    best, start = 2, 0  # fewer than three tokens are no reason
    for end in range(1, len(tokens)):
        length = 0
        while length < min(8, end) and tokens[end - 1 - length] == tokens[-1 - length]:
            length += 1
        if length > best or (length == best and start):
            best, start = length, end
    expected = [tokens[start + index % (len(tokens) - start)] for index in range(limit)] if start else []
    assert find_continuation(np.array(tokens), limit) == expected


def test_the_fallback_guesses_nothing_and_says_so() -> None:
    architecture = next(iter(FALLBACK))
    with pytest.raises(ValueError, match="speculation is set to ngram"):
        make_engine(architecture, speculation="ngram")
    assert make_engine(architecture, speculation="auto").stats().num_drafted_tokens == 0
    with pytest.raises(ValueError, match="num_speculative_tokens"):
        make_engine("qwen2", speculation="ngram", num_speculative_tokens=0)
