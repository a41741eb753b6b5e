"""Fields of POST /v1/responses: what is refused and how it is named, what passes, how a tool choice is repeated."""

import json
from typing import Any

import pytest

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.encoders.responses_object import make_response
from apps.openai_api.parameters import RESPONSES_NEUTRAL
from apps.openai_api.schemas.responses import ResponsesCall, parse_response, prepare
from gpu_worker.protocol import Sampling
from tests.api.open_responses import check_response
from tests.api.test_responses import FILES, HELLO, WEATHER

PATCH = {"type": "custom", "name": "patch"}
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: start"}
CALLER = Caller(user_id=1, username="ann", team_id=1, key_id=1)


def parse_response_of(**fields: Any) -> ResponsesCall:
    return parse_response(json.dumps(HELLO | fields).encode(), CALLER)


@pytest.mark.parametrize(
    ("given", "echoed", "sent"),
    [
        (None, "auto", "auto"),
        ("required", "required", "required"),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "function", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
        ),
        (
            {"type": "function", "name": "read", "namespace": "mcp__files"},
            {"type": "function", "name": "read", "namespace": "mcp__files"},
            {"type": "function", "function": {"name": "mcp__files__read"}},
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            "required",
        ),
    ],
    ids=["none", "required", "nested", "namespace", "allowed"],
)
def test_tool_choice_in_every_form(given: Any, echoed: Any, sent: Any) -> None:
    call = parse_response_of(tools=[FILES, WEATHER], tool_choice=given)
    assert (call.request.tool_choice or "auto") == sent
    response = make_response(call, Sampling(seed=1))
    check_response(response)
    assert response["tool_choice"] == echoed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": "c"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"model": None}, "model"),
        ({"conversation": 1}, "conversation"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["everything"]}, "include[0]"),
        ({"truncation": "some"}, "truncation"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"form": "json"}}, "text"),
        ({"reasoning": {"effort": "immense"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search", "external_web_access": True}]}, "tools[0].type"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [PATCH | {"format": {"type": "grammar"}}]}, "tools[0].format.syntax"),
        ({"tools": [PATCH | {"format": {"type": "grammar", "syntax": "regex"}}]}, "tools[0].format.definition"),
        ({"tools": [PATCH | {"format": LARK}]}, "tools[0].format.definition"),
        ({"tools": [FILES | {"tools": [PATCH | {"format": LARK}]}]}, "tools[0].tools[0].format.definition"),
        ({"tools": [PATCH], "tool_choice": {"type": "function", "name": "patch"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "name": "weather"}}, "tool_choice"),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "input": ""}]}, "input[0].name"),
        ({"tools": [{"type": "mcp", "server_label": ""}]}, "tools[0].server_label"),
        ({"tools": [{"type": "namespace", "name": "x"}]}, "tools[0].tools"),
        ({"tools": [FILES | {"tools": [{"type": "mcp", "name": "x"}]}]}, "tools[0].tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tools": [WEATHER | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_cannot_be_honoured_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepare(parse_response_of(**fields), [], {})
    assert caught.value.param == param


@pytest.mark.parametrize("name", sorted(RESPONSES_NEUTRAL))
def test_refused_field_passes_at_its_neutral_values_only(name: str) -> None:
    for value in (None, *RESPONSES_NEUTRAL[name]):
        parse_response_of(**{name: value})
    with pytest.raises(UnsupportedParameter) as caught:
        parse_response_of(**{name: {"something": "else"}})
    assert caught.value.param == name
