"""Every format of tool calls: whole, several, broken and cut, however the text is cut into pieces."""

import json
import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_worker.frontend.parsers import REASONING_PARSERS, TOOL_CALL_PARSERS, ParserNames, choose_parsers
from gpu_worker.frontend.parsers.mistral import MistralParser
from gpu_worker.frontend.parsers.reader import CallReader
from gpu_worker.frontend.parsers.response_template import read_response_template
from gpu_worker.frontend.parsers.text_arguments import convert_text, find_types
from gpu_worker.frontend.parsers.think import ThinkParser
from gpu_worker.protocol import ReasoningFormat, ToolCallFormat
from tests.worker.frontend.call_reading import Outcome, read
from tests.worker.frontend.conftest import cut

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "num": {"type": "integer"},
                    "flag": {"type": ["boolean", "null"]},
                    "items": {"anyOf": [{"type": "array"}, {"type": "null"}]},
                    "place": {"$ref": "#/$defs/Place"},
                },
                "$defs": {"Place": {"type": "object"}},
            },
        },
    }
]
# The template that the documentation of transformers gives for Cohere's calls, in short.
COHERE = {
    "start_anchor": "<|CHATBOT|>",
    "fields": {
        "thinking": {"open": "<|THINK|>", "close": "<|/THINK|>"},
        "tool_calls": {
            "open_pattern": r"<\|ACTION\|>\s*",
            "close": "<|/ACTION|>",
            "repeats": True,
            "content": "json",
            "transform_each": True,
            "transform": {"type": "function", "function": {"name": "{tool_name}", "arguments": "{parameters}"}},
        },
        "content": {},
    },
}
PARSERS: dict[str, type[CallReader]] = {parser.name: parser for parser in TOOL_CALL_PARSERS}
COHERE_PARSER = read_response_template(COHERE).tool_calls
assert COHERE_PARSER is not None
PARSERS["response_template"] = COHERE_PARSER

DS = {
    name: f"<\uff5ctool▁{name.replace(' ', '▁')}\uff5c>"
    for name in ("calls begin", "calls end", "call begin", "call end", "sep")
}
V3 = (
    DS["calls begin"]
    + f'{DS["call begin"]}function{DS["sep"]}f\n```json\n{{"text": "a"}}\n```{DS["call end"]}'
    + f"\n{DS['call begin']}function{DS['sep']}g\n```json\n{{}}\n```{DS['call end']}{DS['calls end']}"
)
V31 = (
    DS["calls begin"]
    + f'{DS["call begin"]}f{DS["sep"]}{{"text": "a"}}{DS["call end"]}'
    + f"{DS['call begin']}g{DS['sep']}{{}}{DS['call end']}{DS['calls end']}"
)
KIMI = (
    '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"text": "a"}'
    "<|tool_call_end|>"
    "<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
)
LIST = '[{"name": "f", "arguments": {"text": "a"}}, {"name": "g", "arguments": {}}]'

# Each says the same: f(text="a") and g().
TWO_CALLS = [
    (
        "hermes",
        '<tool_call>\n{"name": "f", "arguments": {"text": "a"}}\n</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
    ),
    (
        "qwen_xml",
        "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=g>\n</function>\n</tool_call>",
    ),
    ("qwen_xml", "<function=f><parameter=text>a</parameter></function>\n<function=g></function>"),
    (
        "minimax",
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="text">a</parameter>\n</invoke>\n'
        '<invoke name="g">\n</invoke>\n</minimax:tool_call>',
    ),
    (
        "glm",
        "<tool_call>f\n<arg_key>text</arg_key>\n<arg_value>a</arg_value>\n</tool_call>\n<tool_call>g</tool_call>",
    ),
    ("llama", '{"name": "f", "parameters": {"text": "a"}}; {"name": "g", "parameters": {}}'),
    ("llama", '<|python_tag|>{"name": "f", "parameters": {"text": "a"}}<|python_tag|>{"name": "g", "arguments": {}}'),
    ("pythonic", "[f(text='a'), g()]"),
    ("pythonic", '<|python_start|>[f(text="a"), g()]<|python_end|>'),
    ("lfm", '<|tool_call_start|>[f(text="a"), g()]<|tool_call_end|>'),
    ("mistral", f"[TOOL_CALLS]{LIST}"),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "f", "arguments": {"text": "a"}, "id": "D681PevKs"}, {"name": "g", "arguments": {}}]',
    ),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"text": "a"}[TOOL_CALLS]g[ARGS]{}'),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]D681PevKs[ARGS]{"text": "a"}[TOOL_CALLS]g[CALL_ID]D681PevKt[ARGS]{}'),
    ("deepseek", V3),
    ("deepseek", V31),
    ("kimi", KIMI),
    ("granite", f"<|tool_call|>{LIST}"),
    ("granite", f"<|tool_call|>{LIST}<|/tool_call|>"),
    ("granite", f"functools{LIST}"),
    (
        "harmony",
        '<|channel|>commentary to=functions.f<|message|>{"text": "a"}<|call|>'
        "<|channel|>commentary to=functions.g<|message|>{}",
    ),
    (
        "functiongemma",
        "<start_function_call>call:f{text:<escape>a<escape>}<end_function_call>"
        "<start_function_call>call:g{}<end_function_call>",
    ),
    ("gemma", '<|tool_call>call:f{text:<|"|>a<|"|>}<tool_call|><|tool_call>call:g{}<tool_call|>'),
    (
        "response_template",
        '<|ACTION|> [{"tool_name": "f", "parameters": {"text": "a"}}, {"tool_name": "g", "parameters": {}}]<|/ACTION|>',
    ),
]


def cut_at_marks(text: str) -> list[str]:
    """The text in pieces that a broken call may be put together of."""
    return [piece for piece in re.split(r"(<[^<>]*>|\[[A-Z_]+\]|[{}()])", text) if piece]


AT_START_ONLY = {"llama", "pythonic"}  # without a marker


def run(name: str, pieces: list[str]) -> Outcome:
    outcome = read(PARSERS[name](TOOLS), pieces)
    complete = [arguments for _, arguments in outcome.calls if is_object(arguments)]
    assert len(complete) >= outcome.num_complete
    return outcome


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def run_both_ways(name: str, text: str) -> Outcome:
    whole = run(name, [text])
    assert run(name, list(text)) == whole
    return whole


IDS = [f"{name}-{position}" for position, (name, _) in enumerate(TWO_CALLS)]


@pytest.mark.parametrize(("name", "text"), TWO_CALLS, ids=IDS)
def test_several_calls_are_read(name: str, text: str) -> None:
    content, calls, num_complete = run_both_ways(name, text)
    assert [(function, json.loads(arguments)) for function, arguments in calls] == [("f", {"text": "a"}), ("g", {})]
    assert (content, num_complete) == ("", 2)


@pytest.mark.parametrize(("name", "text"), TWO_CALLS, ids=IDS)
def test_text_before_and_after_is_content(name: str, text: str) -> None:
    if name in AT_START_ONLY and not text.startswith("<"):
        assert run_both_ways(name, f"Well: {text}") == Outcome(f"Well: {text}", [], 0)
        return
    before = run_both_ways(name, f"Let me see.\n\n{text}\n")
    assert (before.content, before.num_complete) == ("Let me see.", 2)
    if name != "harmony":  # the next message follows by a header, see test_harmony
        after = run_both_ways(name, f"{text} Done.")
        assert (after.content.strip(), after.num_complete) == ("Done.", 2)


@pytest.mark.parametrize(("name", "text"), TWO_CALLS, ids=IDS)
def test_cut_anywhere_it_is_text_or_an_incomplete_call(name: str, text: str) -> None:
    for end in range(len(text)):
        outcome = run(name, [text[:end]])
        assert run(name, list(text[:end])) == outcome
        whole = [arguments for _, arguments in outcome.calls if is_object(arguments)]
        assert outcome.num_complete == len(whole)
        if not outcome.calls:
            assert outcome.content == text[:end]
        assert [function for function, _ in outcome.calls] == ["f", "g"][: len(outcome.calls)]


FRAGMENTS = [
    "",
    " ",
    "\n",
    "a",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ";",
    ":",
    "=",
    '"',
    "'",
    "\\",
    "<",
    ">",
    "f",
    "call:f{",
]
PIECES = {
    name: sorted({piece for other, text in TWO_CALLS if other == name for piece in cut_at_marks(text)}) + FRAGMENTS
    for name in PARSERS
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=25)
@given(data=st.data())
def test_outcome_does_not_depend_on_the_cuts(name: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.lists(st.sampled_from(PIECES[name]), max_size=24)))
    whole = run(name, [text])
    assert run(name, list(text)) == whole
    assert run(name, cut(text, data.draw(st.lists(st.integers(0, 9), max_size=30)))) == whole
    if not whole.calls:
        assert whole.content == text


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=12),
        "num": st.integers(),
        "flag": st.booleans() | st.none(),
        "items": st.lists(st.integers() | st.text(max_size=5) | st.none(), max_size=3),
        "place": st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    },
)


def write_xml(arguments: dict[str, Any]) -> str:
    parts = (f"<parameter={key}>\n{as_text(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<tool_call>\n<function=f>\n{''.join(parts)}</function>\n</tool_call>"


def write_minimax(arguments: dict[str, Any]) -> str:
    parts = (f'<parameter name="{key}">\n{as_text(value)}\n</parameter>\n' for key, value in arguments.items())
    return f'<minimax:tool_call>\n<invoke name="f">\n{"".join(parts)}</invoke>\n</minimax:tool_call>'


def write_glm(arguments: dict[str, Any]) -> str:
    parts = (f"<arg_key>{key}</arg_key>\n<arg_value>{as_text(value)}</arg_value>\n" for key, value in arguments.items())
    return f"<tool_call>f\n{''.join(parts)}</tool_call>"


def write_gemma(arguments: dict[str, Any]) -> str:
    def write(value: Any) -> str:
        if isinstance(value, str):
            return f"<escape>{value}<escape>"
        if isinstance(value, list):
            return f"[{','.join(map(write, value))}]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{write(key)}:{write(item)}" for key, item in value.items()) + "}"
        return json.dumps(value)

    parts = ",".join(f"{key}:{write(value)}" for key, value in arguments.items())
    return f"<start_function_call>call:f{{{parts}}}<end_function_call>"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


WRITERS = {
    "hermes": lambda a: f"<tool_call>\n{json.dumps({'name': 'f', 'arguments': a}, ensure_ascii=False)}\n</tool_call>",
    "qwen_xml": write_xml,
    "minimax": write_minimax,
    "glm": write_glm,
    "llama": lambda a: json.dumps({"name": "f", "parameters": a}),
    "pythonic": lambda a: f"[f({', '.join(f'{key}={value!r}' for key, value in a.items())})]",
    "lfm": lambda a: (
        f"<|tool_call_start|>[f({', '.join(f'{key}={json.dumps(a[key])}' for key in a)})]<|tool_call_end|>"
    ),
    "mistral": lambda a: f"[TOOL_CALLS]f[ARGS]{json.dumps(a)}",
    "deepseek": lambda a: f"{DS['calls begin']}{DS['call begin']}f{DS['sep']}{json.dumps(a)}{DS['call end']}",
    "kimi": lambda a: (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
        f"{json.dumps(a)}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "granite": lambda a: f"<|tool_call|>[{json.dumps({'name': 'f', 'arguments': a})}]",
    "harmony": lambda a: f"<|channel|>commentary to=functions.f<|message|>{json.dumps(a)}<|call|>",
    "functiongemma": write_gemma,
    "gemma": lambda a: (
        write_gemma(a)
        .replace("<start_function_call>", "<|tool_call>")
        .replace("<end_function_call>", "<tool_call|>")
        .replace("<escape>", '<|"|>')
    ),
    "response_template": lambda a: f"<|ACTION|>{json.dumps([{'tool_name': 'f', 'parameters': a}])}<|/ACTION|>",
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=25)
@given(arguments=ARGUMENTS, sizes=st.lists(st.integers(0, 7), max_size=30))
def test_every_call_is_read_back_exactly(name: str, arguments: dict[str, Any], sizes: list[int]) -> None:
    content, calls, num_complete = run(name, cut(WRITERS[name](arguments), sizes))
    assert [(function, json.loads(text)) for function, text in calls] == [("f", arguments)]
    assert (content, num_complete) == ("", 1)


def test_names_of_parsers_are_those_that_the_settings_take() -> None:
    more = {"response_template", "none"}
    assert {parser.name for parser in TOOL_CALL_PARSERS} | more == set(get_args(ToolCallFormat))
    assert {parser.name for parser in REASONING_PARSERS} | more == set(get_args(ReasoningFormat))


def test_parsers_are_chosen_by_name() -> None:
    chosen = choose_parsers("{{ content }}", names=ParserNames("mistral", "think"))
    assert (chosen.reasoning, chosen.tool_calls) == (ThinkParser, MistralParser)
    assert choose_parsers("<think></think><tool_call>", names=ParserNames("none", "none")) == (None, None)
    own = choose_parsers("</think>", (), COHERE, ParserNames(reasoning="response_template"))
    assert own.reasoning is not None
    assert own.reasoning.opening == "<|THINK|>"
    assert own.tool_calls is not None  # of a form that the chat template does not name
    for name in ("unheard_of", "response_template"):
        with pytest.raises(ValueError, match=name):
            choose_parsers("{{ content }}", names=ParserNames(name))
    assert choose_parsers("{{ content }}", (), {"fields": 1}) == (None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("7.0", 7.0),
        ("07", "07"),
        ("true", True),
        ("True", True),
        ("None", None),
        ("null", None),
        ("{'a': [1, 'b']}", {"a": [1, "b"]}),
        ('"quoted"', '"quoted"'),
        ("Paris", "Paris"),
        ("1e999", "1e999"),
        ("", ""),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_text_without_a_type_is_json_where_it_is(text: str, value: Any) -> None:
    found = convert_text(text, frozenset())
    assert (found, type(found)) == (value, type(value))


def test_text_takes_the_type_of_the_schema() -> None:
    assert convert_text("7.0", frozenset(["integer"])) == 7
    assert convert_text("7", frozenset(["boolean"])) == "7"
    assert convert_text("12", frozenset(["string", "null"])) == "12"
    assert convert_text("null", frozenset(["string", "null"])) is None
    assert find_types(TOOLS, "f", "place") == {"object"}
    assert find_types(TOOLS, "f", "items") == {"array", "null"}
    assert find_types(TOOLS, "g", "place") == find_types(TOOLS, "f", "other") == frozenset()


def test_text_arguments_are_streamed() -> None:
    parser = PARSERS["qwen_xml"](TOOLS)
    parser.push("<tool_call>\n<function=f>\n<parameter=text>\nOne")
    assert [delta.arguments for delta in parser.push(" two").tool_calls] == [" two"]
    assert [delta.arguments for delta in parser.push('\n"three').tool_calls] == ['\\n\\"three']
    assert parser.push("\n</para").tool_calls == []
    assert [delta.arguments for delta in parser.push("meter>").tool_calls] == ['"']


def test_half_a_surrogate_pair_reaches_no_wire() -> None:
    for name, text in [
        ("hermes", '<tool_call>{"arguments": {"a": "\\ud800"}, "name": "f"}</tool_call>'),
        ("pythonic", "[f(a='\\ud800')]"),
        ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
    ]:
        content, calls, _ = run(name, [text])
        (content + "".join(map("".join, calls))).encode()
