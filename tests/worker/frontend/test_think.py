"""Reasoning is separated from the answer, at the start only, however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.frontend.parsers import choose_parsers
from gpu_worker.frontend.parsers.think import ThinkParser
from tests.worker.frontend.conftest import cut


def run(pieces: list[str], prompt_text: str = "", continued: str = "") -> tuple[str, str]:
    parser = ThinkParser(prompt_text, continued)
    splits = [*(parser.push(piece) for piece in pieces), parser.flush()]
    return "".join(split.reasoning for split in splits), "".join(split.content for split in splits)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes.", ("hm", "Yes.")),
        ("\n<think>hm</think>Yes.", ("hm", "Yes.")),
        ("Yes.", ("", "Yes.")),
        ("A <think> later is text</think>", ("", "A <think> later is text</think>")),
        ("<think>cut off ", ("cut off", "")),
        ("<think></think>Yes.", ("", "Yes.")),
        ("<think>a < b </thin k></think>\n", ("a < b </thin k>", "")),
        ("<thi", ("", "<thi")),
        ("", ("", "")),
    ],
)
def test_parts_of_an_answer(text: str, expected: tuple[str, str]) -> None:
    assert run([text]) == expected
    assert run(list(text)) == expected


def test_prompt_that_opens_the_reasoning() -> None:
    assert run(["hm</think>Yes."], prompt_text="<|assistant|>\n<think>\n") == ("hm", "Yes.")


def test_prompt_that_closes_the_reasoning() -> None:
    assert run(["Yes."], prompt_text="<|assistant|>\n<think>\n\n</think>\n\n") == ("", "Yes.")


def test_continued_answer_that_is_still_in_its_reasoning() -> None:
    assert run([" and b</think>Yes."], "<|assistant|>\n<think>a", "<think>a") == ("and b", "Yes.")


def test_continued_answer_beyond_its_reasoning() -> None:
    assert run([" <think>"], "…", "Hello") == ("", " <think>")


@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "<", "th", "a", " ", "\n", "ink>"]), max_size=10).map(
        "".join
    ),
    sizes=st.lists(st.integers(0, 5), max_size=15),
)
def test_outcome_does_not_depend_on_the_cuts(text: str, sizes: list[int]) -> None:
    assert run(cut(text, sizes)) == run([text])


def test_nothing_of_the_reasoning_is_held_longer_than_needed() -> None:
    parser = ThinkParser("")
    assert parser.push("<think>one two").reasoning == "one two"
    assert parser.is_open


def test_template_decides_whether_there_is_reasoning() -> None:
    assert choose_parsers("{{ content.split('</think>')[-1] }}").reasoning is ThinkParser
    assert choose_parsers("{{ content }}").reasoning is None
