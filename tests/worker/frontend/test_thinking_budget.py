"""Reasoning with a budget: free until it is used up, then ended; and what follows is as free as it was."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from gpu_worker.engine.grammar import GrammarState
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.prepare import Frontend
from gpu_worker.protocol import ResumeChoice
from tests.worker.frontend.test_structure import LIMITS, THINKING, ask, structure_of
from tests.worker_process import DEMO_MODEL

OPEN: Any = {"chat_template_kwargs": {"open": True}}
ANSWER = "well then </think> yes"


@pytest.fixture(scope="module")
def thinking() -> Frontend:
    """The demo model with a template that speaks of reasoning, and opens it when it is told to."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    return Frontend(tokenizer, LIMITS, tokenizer.chat_template + THINKING)


def start(frontend: Frontend, **fields: Any) -> GrammarState:
    state = frontend.prepare(ask(**fields)).choices[0].grammar
    assert state is not None
    return state


def read(frontend: Frontend, state: GrammarState, text: str) -> int:
    """How many of the text's tokens may follow, one after the other."""
    token_ids = frontend.tokenizer.encode(text, add_special_tokens=False)
    return next((i for i, token_id in enumerate(token_ids) if not state.accept(token_id)), len(token_ids))


def count(frontend: Frontend, text: str) -> int:
    return len(frontend.tokenizer.encode(text, add_special_tokens=False))


def test_within_the_budget_nothing_is_forbidden(thinking: Frontend) -> None:
    for fields in (OPEN, {}):
        state = start(thinking, thinking_budget=50, **fields)
        text = ANSWER if fields else f"<think>{ANSWER}"
        assert read(thinking, state, text * 3) == count(thinking, text * 3)


@pytest.mark.parametrize("opening", ["", "<think>"], ids=["opened", "opens"])
def test_when_it_is_used_up_the_end_follows_and_then_anything(thinking: Frontend, opening: str) -> None:
    fields = {} if opening else OPEN
    budget = count(thinking, opening + "one two three")
    state = start(thinking, thinking_budget=budget, **fields)
    assert read(thinking, state, opening + "one two three") == budget
    assert read(thinking, state.copy(), " four") == 0
    assert read(thinking, state, ANSWER[ANSWER.index("</think>") :] + "<think> and more") > budget


def test_an_answer_without_reasoning_has_no_budget(thinking: Frontend) -> None:
    text = "one two three <think> four five six"
    assert read(thinking, start(thinking, thinking_budget=2), text) == count(thinking, text)


def test_it_does_not_end_within_a_character(thinking: Frontend) -> None:
    token_ids = thinking.tokenizer.encode("世", add_special_tokens=False)
    assert len(token_ids) > 1, "the demo model writes it in bytes"
    state = start(thinking, thinking_budget=1, **OPEN)
    assert all(map(state.accept, token_ids))
    assert read(thinking, state, "界") == 0


def test_the_form_of_the_answer_is_enforced_behind_it(thinking: Frontend) -> None:
    form = structure_of({"type": "object", "properties": {}, "additionalProperties": False})
    budget = count(thinking, "one two")
    state = start(thinking, thinking_budget=budget, structure=form, **OPEN)
    assert read(thinking, state, "one two") == budget
    ended = state.copy()
    assert read(thinking, state, "</think>\n\nyes") < count(thinking, "</think>\n\nyes")
    assert read(thinking, ended, "</think>\n\n{}") == count(thinking, "</think>\n\n{}")
    assert ended.is_complete


def test_a_resumed_answer_has_used_what_it_had(thinking: Frontend) -> None:
    token_ids = thinking.tokenizer.encode("one two three", add_special_tokens=False)
    resume = [ResumeChoice(0, token_ids)]
    state = start(thinking, thinking_budget=len(token_ids), resume=resume, **OPEN)
    assert read(thinking, state, " four") == 0
    # The answers of one request do not use up each other's.
    choices = thinking.prepare(ask(thinking_budget=len(token_ids), resume=resume, n=2, **OPEN)).choices
    assert choices[1].grammar is not None
    assert read(thinking, choices[1].grammar, "one two") == count(thinking, "one two")


def test_a_model_that_does_not_reason_between_marks_has_none() -> None:
    frontend = Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), LIMITS)
    with pytest.raises(RequestRejected) as rejection:
        frontend.prepare(ask(thinking_budget=5))
    assert (rejection.value.code, rejection.value.param) == ("unsupported", "thinking_budget")
