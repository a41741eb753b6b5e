"""Bodies in the shape of other APIs, posted to chat completions as Cursor does, and histories as clients keep them."""

from typing import Any

import pytest

from gpu_worker.protocol import Structure
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.scripted_worker import Answer, ScriptedWorker

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "description": "of a city", "parameters": SCHEMA}
ANTHROPIC = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
TOOL_SHAPES = {
    "nested": {"type": "function", "function": FUNCTION},
    "flat": {"type": "function", **FUNCTION, "strict": False},
    "input_schema": ANTHROPIC,
    "input_schema_custom": {"type": "custom", **ANTHROPIC, "cache_control": {"type": "ephemeral"}},
}
NAMED = {"type": "function", "function": {"name": "weather"}}


def ask(api: Api, **fields: Any) -> Any:
    """The error object, or None. In a stream that has told of a wait it is an event."""
    response = api.post(PATH, {"model": "scripted"} | fields)
    assert response.status_code in (200, 400), response.text
    answer = parse_events(response.text)[-1] if "event-stream" in response.headers["content-type"] else response.json()
    return answer.get("error")


@pytest.mark.parametrize("shape", TOOL_SHAPES)
def test_tools_mean_the_same_in_every_shape(chat_api: Api, worker: ScriptedWorker, shape: str) -> None:
    assert ask(chat_api, messages=HELLO, tools=[TOOL_SHAPES[shape]]) is None
    assert worker.generates[0].tools == [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "weather"}, NAMED),
        ({"type": "auto", "disable_parallel_tool_use": False}, "auto"),
    ],
    ids=["auto", "none", "any", "tool", "parallel"],
)
def test_anthropics_tool_choice_is_understood(chat_api: Api, worker: ScriptedWorker, choice: Any, sent: Any) -> None:
    assert ask(chat_api, messages=HELLO, tools=[ANTHROPIC], tool_choice=choice) is None
    assert worker.generates[0].tool_choice == sent


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"tools": [ANTHROPIC], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
            "tool_choice.disable_parallel_tool_use",
        ),
        ({"tools": [{"type": "custom", "name": ""}]}, "tools[0].name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"input_schema": SCHEMA}]}, "tools[0].function"),
        ({"tools": [{"name": "f", "input_schema": 3}]}, "tools[0].input_schema"),
    ],
    ids=["one_call", "custom", "web_search", "nameless", "wrong_type"],
)
def test_what_cannot_be_had_is_named(chat_api: Api, fields: dict[str, Any], param: str) -> None:
    assert ask(chat_api, messages=HELLO, **fields)["param"] == param


def test_responses_shaped_body_is_understood(chat_api: Api, worker: ScriptedWorker) -> None:
    error = ask(
        chat_api,
        input=[
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Paris"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        ],
        instructions="Be brief.",
        tools=[TOOL_SHAPES["flat"]],
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}},
        max_output_tokens=9,
        include=["reasoning.encrypted_content"],
        store=False,
        metadata={"a": "b"},
        prompt_cache_key="key",
        stream_options={"include_usage": True},
    )
    assert error is None
    sent = worker.generates[0]
    assert [message["role"] for message in sent.messages] == ["system", "user", "assistant", "tool"]
    assert sent.messages[0]["content"] == "Be brief.\nBe kind."
    assert sent.messages[2]["reasoning_content"] == "hm"
    assert (sent.reasoning_effort, sent.sampling.max_tokens) == ("high", 9)
    assert sent.structure == Structure("json_schema", '{"type":"object"}', "text.format")


@pytest.mark.parametrize(
    ("given", "fields", "named"),
    [
        ("messages[1].content[0].image_url", {}, "input[0].content[0].image_url"),
        ("messages[0].content", {}, "instructions"),
        ("messages", {}, "input"),
        ("reasoning_effort", {"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ("reasoning_effort", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("logit_bias", {}, "logit_bias"),
    ],
)
def test_what_the_worker_refuses_is_called_as_the_body_calls_it(
    chat_api: Api, worker: ScriptedWorker, given: str, fields: dict[str, Any], named: str
) -> None:
    worker.reply(Answer(fail="unsupported", fail_param=given, fail_message=f"'{given}' is not for this model."))
    for is_stream in (False, True):
        body = {"input": [{"role": "user", "content": "x"}], "instructions": "y", "stream": is_stream}
        error = ask(chat_api, **body, **fields)
        assert (error["param"], error["message"]) == (named, f"'{named}' is not for this model.")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "x", "messages": HELLO}, "input"),
        ({"messages": HELLO, "instructions": "x"}, "input"),
        ({"instructions": "x"}, "messages"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"messages": HELLO, "reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "reasoning.effort"),
        ({"messages": HELLO, "reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"messages": HELLO, "reasoning": {"max_tokens": 9}}, "reasoning"),
        ({"messages": HELLO, "text": {"verbosity": "low"}}, "text.verbosity"),
        (
            {"messages": HELLO, "text": {"format": {"type": "json_object"}}, "guided_regex": "a"},
            "text.format",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mixed_and_impossible_bodies_are_refused_by_name(chat_api: Api, fields: dict[str, Any], param: str) -> None:
    assert ask(chat_api, **fields)["param"] == param


HISTORIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "null_calls": ({"content": "x", "tool_calls": None}, {"content": "x"}),
    "no_calls": ({"content": "x", "tool_calls": []}, {"content": "x"}),
    "empty": ({"content": ""}, {"content": ""}),
    "null": ({"content": None}, {"content": ""}),
    "nothing": ({}, {"content": ""}),
    "refusal": ({"content": None, "refusal": "No."}, {"content": "No."}),
    "refusal_part": ({"content": [{"type": "refusal", "refusal": "No."}]}, {"content": "No."}),
    "null_refusal": ({"content": "x", "refusal": None, "function_call": None, "audio": None}, {"content": "x"}),
    "echoed": ({"content": "x", "annotations": [], "provider_specific_fields": {"a": 1}}, {"content": "x"}),
    "no_parts": ({"content": []}, {"content": ""}),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_assistant_turns_as_clients_keep_them(chat_api: Api, worker: ScriptedWorker, name: str) -> None:
    given, sent = HISTORIES[name]
    assert ask(chat_api, messages=[*HELLO, {"role": "assistant", **given}, *HELLO]) is None
    assert worker.generates[0].messages[1] == {"role": "assistant", **sent}


def test_hugging_faces_json_object_with_a_schema(chat_api: Api, worker: ScriptedWorker) -> None:
    assert ask(chat_api, messages=HELLO, response_format={"type": "json_object", "value": SCHEMA}) is None
    assert worker.generates[0].structure.kind == "json_schema"
