"""Custom tools of chat completions: offered, chosen, called, streamed, enforced, and given back as history."""

import json
import re
from typing import Any

import pytest

from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api
from tests.api.demo_fixtures import demo_api, demo_worker
from tests.api.sse import parse_events
from tests.api.test_custom_tools import TEXT, call
from tests.api.test_sdks import make_openai
from tests.scripted_worker import Answer, ScriptedWorker

__all__ = ["demo_api", "demo_worker"]  # fixtures

PATH = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
PATCH = {"type": "custom", "custom": {"name": "patch", "description": "Change a file."}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
LARK = 'start: "+" DIGIT~2..4 LF\n%import common.LF\n%import common.DIGIT'


def make_tool(definition: str, syntax: str = "lark") -> dict[str, Any]:
    format_ = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    return {"type": "custom", "custom": {"name": "dial", "format": format_}}


def ask(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post(PATH, HELLO | fields)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def refuse(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post(PATH, HELLO | fields)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_calls_are_texts_whole_and_streamed(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(call(json.dumps({"input": TEXT})))
    choice = ask(chat_api, tools=[PATCH, LOOK])
    made = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": TEXT}}
    assert (choice["message"]["tool_calls"], choice["finish_reason"]) == ([made], "tool_calls")
    chunks = parse_events(chat_api.post(PATH, HELLO | {"tools": [PATCH, LOOK], "stream": True}).text)
    pieces = [piece for chunk in chunks for piece in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert pieces[0] == {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "patch", "input": ""}}
    assert all(piece.keys() == {"index", "custom"} and piece["custom"]["input"] for piece in pieces[1:])
    assert "".join(piece["custom"]["input"] for piece in pieces) == TEXT
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_functions_and_custom_tools_in_one_answer(chat_api: Api, worker: ScriptedWorker) -> None:
    calls = [
        [ToolCallDelta(0, "a", "look", '{"x"'), ToolCallDelta(1, "b", "patch", "raw ")],
        [ToolCallDelta(0, arguments=": 1}"), ToolCallDelta(2, "c", "patch", '{"inp')],
    ]
    worker.reply(Answer(deltas=tuple(Delta("", tool_calls=made) for made in calls), reason="tool_calls"))
    expected = [
        {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "custom", "custom": {"name": "patch", "input": "raw "}},
        {"id": "c", "type": "custom", "custom": {"name": "patch", "input": '{"inp'}},
    ]
    assert ask(chat_api, tools=[PATCH, LOOK])["message"]["tool_calls"] == expected
    chunks = parse_events(chat_api.post(PATH, HELLO | {"tools": [PATCH, LOOK], "stream": True}).text)
    streamed: dict[int, str] = {}
    for chunk in chunks:
        for piece in chunk["choices"][0]["delta"].get("tool_calls", ()):
            text = piece["function"]["arguments"] if "function" in piece else piece["custom"]["input"]
            streamed[piece["index"]] = streamed.get(piece["index"], "") + text
    assert streamed == {0: '{"x": 1}', 1: "raw ", 2: '{"inp'}


def test_openai_sdk_reads_the_call(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(call(json.dumps({"input": TEXT})))
    with make_openai(chat_api) as client:
        answer = client.chat.completions.create(**HELLO, tools=[PATCH])
    (made,) = answer.choices[0].message.tool_calls or []
    assert made.type == "custom"
    assert (made.custom.name, made.custom.input) == ("patch", TEXT)


def test_history_and_its_result(chat_api: Api, worker: ScriptedWorker) -> None:
    made = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": TEXT}}
    messages = [
        *HELLO["messages"],
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    ask(chat_api, messages=messages, tools=[PATCH])
    _, asked, told = worker.generates[0].messages or []
    (sent,) = asked["tool_calls"]
    assert (sent["id"], sent["function"]["name"]) == ("call_1", "patch")
    assert json.loads(sent["function"]["arguments"]) == {"input": TEXT}
    assert told == {"role": "tool", "content": "done", "tool_call_id": "call_1"}
    broken = [{"role": "assistant", "tool_calls": [{"id": "call_1", "type": "custom"}]}]
    assert refuse(chat_api, messages=broken)["param"] == "messages[0].tool_calls[0].function"


@pytest.mark.parametrize(
    ("choice", "sent", "offered"),
    [
        ("required", "required", ["patch", "look"]),
        (
            {"type": "custom", "custom": {"name": "patch"}},
            {"type": "function", "function": {"name": "patch"}},
            ["patch", "look"],
        ),
        ({"type": "custom", "name": "patch"}, {"type": "function", "function": {"name": "patch"}}, ["patch", "look"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "custom", "custom": {"name": "patch"}}]},
            },
            "required",
            ["patch"],
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "look"}}]},
            },
            "auto",
            ["look"],
        ),
    ],
    ids=["required", "nested", "flat", "allowed", "allowed-function"],
)
def test_every_form_of_choice(
    chat_api: Api, worker: ScriptedWorker, choice: Any, sent: Any, offered: list[str]
) -> None:
    ask(chat_api, tools=[PATCH, LOOK], tool_choice=choice)
    asked = worker.generates[0]
    assert asked.tool_choice == sent
    assert [tool["function"]["name"] for tool in asked.tools or []] == offered


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [PATCH, PATCH]}, "tools[1].custom.name"),
        ({"tools": [LOOK, PATCH], "tool_choice": {"type": "function", "function": {"name": "patch"}}}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "custom", "custom": {"name": "look"}}}, "tool_choice"),
        ({"tools": [LOOK], "tool_choice": {"type": "custom", "custom": {"name": "patch"}}}, "tool_choice"),
        ({"tools": [make_tool("start: start")]}, "tools[0].custom.format.grammar.definition"),
        ({"tools": [make_tool("a", "ebnf")]}, "tools[0].custom.format.grammar.syntax"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "grammar"}}}]},
            "tools[0].custom.format.grammar.syntax",
        ),
        (
            {"tools": [{"type": "custom", "name": "a", "format": {"type": "grammar", "syntax": "lark"}}]},
            "tools[0].format.definition",
        ),
    ],
)
def test_what_cannot_be_is_named(chat_api: Api, fields: dict[str, Any], param: str) -> None:
    assert refuse(chat_api, **fields)["param"] == param


def test_what_the_worker_refuses_is_called_as_in_the_body(chat_api: Api, worker: ScriptedWorker) -> None:
    place = "tools[0].function.parameters.properties.input.pattern"
    worker.reply(Answer(fail="invalid_request", fail_param=place, fail_message=f"'{place}' is wrong"))
    only = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "custom", "name": "dial"}]}}
    error = refuse(chat_api, tools=[LOOK, make_tool("[0-9]+", "regex")], tool_choice=only)
    where = "tools[1].custom.format.grammar.definition"
    assert (error["param"], error["message"]) == (where, f"'{where}' is wrong")


def test_flat_custom_tools_are_understood(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(call('{"input": "x"}'))
    flat = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": LARK}}
    (made,) = ask(chat_api, tools=[flat])["message"]["tool_calls"]
    assert made["custom"] == {"name": "patch", "input": "x"}
    (sent,) = worker.generates[0].tools or []
    assert sent["function"]["strict"]


@pytest.mark.slow
@pytest.mark.parametrize("syntax", ["lark", "regex"])
def test_demo_model_writes_what_the_grammar_allows(demo_api: Api, syntax: str) -> None:
    tool = make_tool(LARK if syntax == "lark" else r"\+[0-9]{2,4}\n", syntax)
    body = HELLO | {"model": "demo", "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    response = demo_api.post(PATH, body)
    assert response.status_code == 200, response.text
    (made,) = response.json()["choices"][0]["message"]["tool_calls"]
    assert made["type"] == "custom"
    assert made["custom"]["name"] == "dial"
    assert re.fullmatch(r"\+[0-9]{2,4}\n", made["custom"]["input"])
