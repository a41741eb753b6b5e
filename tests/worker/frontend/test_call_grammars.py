"""Enforced calls in the forms of the families: what their grammars let through, and what is refused, by name."""

from typing import Any

import pytest

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.protocol import Generate, Sampling, Structure
from tests.worker.frontend.conftest import build_byte_level
from tests.worker.frontend.test_families import FAMILIES
from tests.worker.frontend.test_family_answers import ANSWERS, DS_CALLS, build
from tests.worker.frontend.test_tool_call_formats import COHERE

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
# What the calls among the answers of the families begin with.
STARTS = {
    "qwen3": "<tool_call>",
    "qwen3_coder": "<tool_call>",
    "llama31": "{",
    "llama_pythonic": "[",
    "lfm2": "<|tool_call_start|>",
    "mistral": "[TOOL_CALLS]",
    "magistral": "[TOOL_CALLS]",
    "deepseek_v3": DS_CALLS,
    "deepseek_v31": DS_CALLS,
    "glm45": "<tool_call>",
    "gpt_oss": "<|channel|>commentary",
    "functiongemma": "<start_function_call>",
    "gemma4": "<|tool_call>",
    "phi4_mini": "<|tool_call|>",
    "granite3": "<|tool_call|>",
    "kimi_k2": "<|tool_calls_section_begin|>",
    "minimax_m2": "<minimax:tool_call>",
}
UNMARKED = {"llama31", "llama_pythonic", "gpt_oss"}  # nothing tells a call from text before it is over


@pytest.fixture(scope="module")
def frontends() -> dict[str, Frontend]:
    return {name: build(name) for name in FAMILIES}


def make_tool(parameters: Any, name: str = "get_weather", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def ask(tools: list[dict[str, Any]], **fields: Any) -> Generate:
    messages = [{"role": "user", "content": "hi"}]
    return Generate(id="r", kind="chat", sampling=Sampling(seed=1), messages=messages, tools=tools, **fields)


def reads(frontend: Frontend, text: str, tools: list[dict[str, Any]], **fields: Any) -> str:
    """What the form says of this text: "no", "open" (more must follow), "may end", "complete"."""
    grammar = frontend.prepare(ask(tools, **fields)).choices[0].grammar
    assert grammar is not None
    if not all(map(grammar.accept, frontend.tokenizer.encode(text, add_special_tokens=False))):
        return "no"
    if grammar.is_complete:
        return "complete"
    return "may end" if grammar.matcher.is_accepting() else "open"


def find_call(name: str) -> str:
    """The call alone, up to where it is whole."""
    text = ANSWERS[name][0]
    text = text[text.index(STARTS[name]) :].replace("'", '"')
    return text.removesuffix("<|call|>").removesuffix("<|/tool_call|>").removesuffix("Done.")


def close_reasoning(frontend: Frontend) -> dict[str, Any]:
    """Fields by which the answer begins behind the reasoning, where that can be."""
    parser = frontend.template.reasoning_parser
    return {"enable_thinking": False} if parser is not None and parser.name != "harmony" else {}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_as_the_family_writes_it_is_what_is_enforced(frontends: dict[str, Frontend], name: str) -> None:
    frontend, text, tools = frontends[name], find_call(name), [make_tool(CITY)]
    fields = {"tool_choice": "required", **close_reasoning(frontends[name])}
    assert reads(frontend, text, tools, parallel_tool_calls=False, **fields) == "complete"
    assert reads(frontend, text.replace("city", "town"), tools, **fields) == "no"
    assert reads(frontend, "Hello", tools, **fields) == "no"


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in UNMARKED])
def test_a_strict_tool_binds_a_call_once_it_begins(frontends: dict[str, Frontend], name: str) -> None:
    frontend, text = frontends[name], find_call(name)
    tools = [make_tool(CITY, strict=True), make_tool({"type": "object"}, "other")]
    fields = close_reasoning(frontend)
    assert reads(frontend, f"Hello.{text}", tools, **fields) == "may end"
    assert reads(frontend, "Hello {there}", tools, **fields) == "may end"
    assert reads(frontend, text.replace("city", "town"), tools, **fields) == "no"
    other = text.replace("get_weather", "other").replace("city", "town")
    assert reads(frontend, other, tools, **fields) == "may end"


def test_form_of_gpt_oss_is_that_of_its_final_channel(frontends: dict[str, Frontend]) -> None:
    def check(text: str, **fields: Any) -> str:
        return reads(frontends["gpt_oss"], text, [], structure=Structure("json_object"), **fields)

    final = '<|channel|>final<|message|>{"a": 1}'
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert check(final) == check(thought + final) == "complete"
    assert check('{"a": 1}') == "no"
    assert check("<|channel|>analysis<|message|>Hm.<|channel|>") == "no"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": '{"a":'}]
    request = Generate(
        id="r",
        kind="chat",
        sampling=Sampling(seed=1),
        messages=messages,
        continue_final_message=True,
        structure=Structure("json_object"),
    )
    grammar = frontends["gpt_oss"].prepare(request).choices[0].grammar
    assert grammar is not None
    assert all(map(grammar.accept, frontends["gpt_oss"].tokenizer.encode(" 1}", add_special_tokens=False)))
    assert grammar.is_complete


def prop(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


URI = {"type": "string", "format": "uri"}


@pytest.mark.parametrize(
    ("name", "schema", "word"),
    [
        ("qwen3_coder", prop(URI), "'uri'"),
        ("glm45", prop({"type": ["string", "integer"], "minimum": 3}), "something else"),
        ("minimax_m2", prop({"enum": ["a\n", "b"]}), "value"),
        ("minimax_m2", prop({"enum": ["</parameter>"]}), "value"),
        ("qwen3_coder", prop({"enum": [1, "1"]}), "value"),
        ("qwen3_coder", {"type": "object", "properties": {"a>b": {}}}, "a>b"),
        ("qwen3_coder", {"type": "object", "allOf": [CITY]}, "allOf"),
        ("qwen3_coder", {"type": "object", "properties": {}, "required": ["x"]}, "'x'"),
        ("qwen3_coder", {"type": "array"}, "object"),
        ("gemma4", prop(URI), "'uri'"),
        ("gemma4", prop({"type": "string", "format": ["date"]}), "date"),
        ("gemma4", prop({"oneOf": [{"type": "string"}, {"type": "null"}]}), "'oneOf'"),
        ("gemma4", prop({"type": "array", "uniqueItems": True}), "'uniqueItems'"),
        ("gemma4", prop({"$ref": "#/$defs/None"}), "reference"),
        ("gemma4", prop({"type": "robot"}), "robot"),
        ("gemma4", prop({"type": 5}), "5"),
        ("gemma4", {"type": "object", "properties": {}, "required": [{}]}, "required"),
        ("glm45", prop({"type": "string", "anyOf": [True]}), "keyword"),
        ("glm45", prop(3), "property"),
        ("llama_pythonic", {"type": "object", "properties": {"a-b": {}}}, "a-b"),
        ("llama_pythonic", prop({"not": {}}), "not"),
    ],
)
def test_schema_that_a_form_cannot_be_held_to_is_refused_by_name(
    frontends: dict[str, Frontend], name: str, schema: Any, word: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        frontends[name].prepare(ask([make_tool(schema)], tool_choice="required"))
    assert caught.value.param == "tools[0].function.parameters"
    assert word in caught.value.message


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "gemma4", "llama_pythonic", "magistral", "gpt_oss"])
def test_name_that_has_no_place_in_the_form_is_refused(frontends: dict[str, Frontend], name: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        frontends[name].prepare(ask([make_tool(CITY, "a <b>{c}")], tool_choice="required"))
    assert caught.value.param == "tools[0].function.name"


def test_form_of_a_response_template_is_not_enforced() -> None:
    tokenizer = build_byte_level().hf
    tokenizer.response_template = COHERE
    template = (
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    frontend = Frontend(tokenizer, Limits(4096, len(tokenizer)), template)
    with pytest.raises(RequestRejected) as caught:
        frontend.prepare(ask([make_tool(CITY)], tool_choice="required"))
    assert (caught.value.code, caught.value.param) == ("unsupported", "tool_choice")


@pytest.mark.parametrize(
    ("name", "schema", "text", "verdict"),
    [
        ("glm45", prop({"type": ["string", "null"]}), "null", "complete"),
        ("glm45", prop({"type": "string"}), "</arg_valu", "complete"),
        ("glm45", prop({"type": "string", "maxLength": 3}), "four", "no"),
        ("glm45", prop({"type": "string", "pattern": "b.$"}), "abc", "complete"),
        ("glm45", prop({"type": "string", "pattern": "b.$"}), "abcd", "no"),
        ("glm45", prop({"type": "string", "format": "date"}), "2026-11-30", "complete"),
        ("glm45", prop({"type": "string", "format": "date"}), "2026-11-31", "no"),
        ("glm45", prop({"type": "string", "format": "date-time"}), "2026-02-28T23:59:00.5+01:00", "complete"),
        ("glm45", prop({"type": "string", "format": "email"}), "a.b+c@example.org", "complete"),
        ("glm45", prop({"type": "string", "format": "uuid"}), "00000000-0000-4000-8000-00000000000g", "no"),
        ("glm45", prop({"type": "string", "format": "ipv4"}), "10.0.0.256", "no"),
        ("glm45", prop({"type": "integer"}), "12", "complete"),
        ("glm45", prop({"type": "integer"}), "twelve", "no"),
        ("glm45", prop({}), "anything [at", "complete"),
        ("glm45", prop({"type": "array", "items": {"type": "string"}}), '["</arg_value>", "b"]', "complete"),
        ("gemma4", prop({"type": "string"}), '<|"|>a, {b}<|"|>', "complete"),
        ("gemma4", prop({"type": "string"}), "a", "no"),
        ("gemma4", prop({}), '[1,<|"|>a<|"|>,{y:null}]', "complete"),
        ("gemma4", prop({"type": "array", "minItems": 2, "items": {"type": "integer"}}), "[1]", "no"),
        ("gemma4", prop({"const": True}), "true", "complete"),
        ("llama_pythonic", prop({"type": "object"}), '{"a": [true, null]}', "complete"),
    ],
)
def test_values_are_held_to_their_schema(
    frontends: dict[str, Frontend], name: str, schema: Any, text: str, verdict: str
) -> None:
    before, after = {
        "glm45": ("<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>", "</arg_value>\n</tool_call>"),
        "gemma4": ("<|tool_call>call:f{x:", "}<tool_call|>"),
        "llama_pythonic": ("[f(x=", ")]"),
    }[name]
    tools = [make_tool(schema, "f")]
    fields: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
    assert reads(frontends[name], before + text + after, tools, **fields) == verdict
