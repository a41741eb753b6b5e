"""Tool calls in the Hermes form: streamed, several, broken, cut, however the text is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.frontend.parsers import choose_parsers
from gpu_worker.frontend.parsers.hermes import HermesParser
from tests.worker.frontend.call_reading import Outcome, read
from tests.worker.frontend.conftest import cut

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def run(pieces: list[str]) -> Outcome:
    return read(HermesParser(), pieces)


PARIS = ("get_weather", '{"city": "Paris"}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, Outcome("", [PARIS], 1)),
        (f"Let me see.\n{CALL}\n", Outcome("Let me see.", [PARIS], 1)),
        (f"{CALL}\n{CALL}", Outcome("", [PARIS, PARIS], 2)),
        (f"{CALL} done", Outcome(" done", [PARIS], 1)),
        ("plain < text <tool", Outcome("plain < text <tool", [], 0)),
        ("ends with blanks \n", Outcome("ends with blanks \n", [], 0)),
        ('<tool_call>{"name": "now", "arguments": {}}</tool_call>', Outcome("", [("now", "{}")], 1)),
        ('<tool_call>{"name": "now"}</tool_call>', Outcome("", [("now", "{}")], 1)),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', Outcome("", [("f", '{"a": 1}')], 1)),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', Outcome("", [("f", '{"a": 1}')], 1)),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', Outcome("", [("f", '{"a": 1}')], 1)),
        # the closing brace or tag is forgotten: the arguments are whole all the same
        ('<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', Outcome("", [("f", '{"a": 1}')], 1)),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', Outcome("", [("f", '{"a": 1}')], 1)),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}', Outcome("", [("f", '{"a": 1}')], 1)),
        # malformed: text as the model wrote it
        ("a <tool_call>no json</tool_call> b", Outcome("a <tool_call>no json</tool_call> b", [], 0)),
        ('<tool_call>{"nam": 1}</tool_call>', Outcome('<tool_call>{"nam": 1}</tool_call>', [], 0)),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>',) * 2,
        # cut before the name is known: text
        ('<tool_call>{"name": "get_', Outcome('<tool_call>{"name": "get_', [], 0)),
        # cut within the arguments: what was streamed stays, and does not count as a call
        ('<tool_call>{"name": "f", "arguments": {"a": "x', Outcome("", [("f", '{"a": "x')], 0)),
        ('<tool_call>{"name": "f", "arguments": {"a": ?}}', Outcome("?}}", [("f", '{"a": ')], 0)),
    ],
)
def test_outcomes(text: str, expected: Outcome | str) -> None:
    if isinstance(expected, str):
        expected = Outcome(expected, [], 0)
    assert run([text]) == expected
    assert run(list(text)) == expected


def test_closing_tag_within_an_argument_does_not_end_the_call() -> None:
    arguments = {"code": "x = '</tool_call>' # {[\"", "n": [1, {"b": None}]}
    for body in ({"name": "run", "arguments": arguments}, {"arguments": arguments, "name": "run"}):
        text = f"<tool_call>{json.dumps(body)}</tool_call>"
        for pieces in ([text], list(text)):
            outcome = run(pieces)
            assert outcome.num_complete == 1
            assert outcome.content == ""
            assert [(name, json.loads(value)) for name, value in outcome.calls] == [("run", arguments)]


def test_name_comes_first_and_arguments_are_streamed() -> None:
    parser = HermesParser()
    assert parser.push('<tool_call>{"name": "f"').tool_calls == []
    (first,) = parser.push(', "arguments": ').tool_calls + parser.push("{").tool_calls[:1]
    assert (first.index, first.name, first.arguments) == (0, "f", "")
    assert [delta.arguments for delta in parser.push('"a": 1').tool_calls] == ['"a": 1']
    assert parser.num_complete == 0
    assert [delta.arguments for delta in parser.push("}}").tool_calls] == ["}"]
    assert parser.num_complete == 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    arguments=st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=3),
    name=st.text(min_size=1, max_size=6),
    sizes=st.lists(st.integers(0, 7), max_size=20),
    ascii_only=st.booleans(),
)
def test_every_call_is_read_back_exactly(
    arguments: dict[str, Any], name: str, sizes: list[int], ascii_only: bool
) -> None:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=ascii_only)
    outcome = run(cut(f"Well.\n<tool_call>\n{body}\n</tool_call>", sizes))
    assert outcome.content == "Well."
    assert [(n, json.loads(value)) for n, value in outcome.calls] == [(name, arguments)]


FRAGMENTS = [*'{}[]":, \n\\', "<tool_call>", "</tool_call>", '{"name": "f", "arguments": ', "a", "<tool", CALL]


@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join),
    sizes=st.lists(st.integers(0, 7), max_size=20),
)
def test_outcome_does_not_depend_on_the_cuts(text: str, sizes: list[int]) -> None:
    assert run(cut(text, sizes)) == run([text])


def test_template_decides_whether_the_format_is_known() -> None:
    hermes = '{{ \'<tool_call>\\n{"name": "\' + name + \'", "arguments": \' }}'
    assert choose_parsers(hermes).tool_calls is HermesParser
    assert choose_parsers("{{ content }}").tool_calls is None
