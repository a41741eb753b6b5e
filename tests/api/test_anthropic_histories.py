"""Histories whose calls and results are parts of turns, as Anthropic has them, posted to chat completions."""

from typing import Any

import pytest

from tests.api.conftest import Api
from tests.api.test_other_shapes import HELLO, ask
from tests.scripted_worker import Answer, ScriptedWorker

USE = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "a"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a thing"}
TEXT = {"type": "text", "text": "Go on."}


def get_sent(worker: ScriptedWorker) -> list[dict[str, Any]]:
    return worker.generates[-1].messages or []


def test_calls_and_results_become_messages(chat_api: Api, worker: ScriptedWorker) -> None:
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, TEXT, USE]},
        {"role": "user", "content": [RESULT, {**RESULT, "tool_use_id": "toolu_2", "content": None}, TEXT]},
    ]
    assert ask(chat_api, messages=turns) is None
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"a"}'}}
    assert get_sent(worker) == [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "Go on.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "a thing", "tool_call_id": "toolu_1"},
        {"role": "tool", "content": "", "tool_call_id": "toolu_2"},
        {"role": "user", "content": "Go on."},
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no file", "Error: no file"),
        ("error: no file", "error: no file"),
        (None, "Error"),
        ([{"type": "text", "text": "no file"}], "Error:\nno file"),
    ],
)
def test_what_failed_says_so(chat_api: Api, worker: ScriptedWorker, content: Any, told: str) -> None:
    failed = {**RESULT, "content": content, "is_error": True}
    turns = [{"role": "assistant", "content": [USE]}, {"role": "user", "content": [failed]}]
    assert ask(chat_api, messages=turns) is None
    assert [message["content"] for message in get_sent(worker)] == ["", told]


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "user", "content": [USE]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": [TEXT, RESULT]}, "messages[1].content[1]"),
        ({"role": "assistant", "content": [{**USE, "name": None}]}, "messages[1].content[0].name"),
        ({"role": "assistant", "content": [{**USE, "input": "a"}]}, "messages[1].content[0].input"),
        ({"role": "user", "content": [{**RESULT, "tool_use_id": None}]}, "messages[1].content[0].tool_use_id"),
        ({"role": "user", "content": [RESULT, TEXT, {"type": "document"}]}, "messages[1].content[2]"),
        ({"role": "assistant", "content": [{"type": "thinking"}, {"type": "document"}]}, "messages[1].content[1]"),
        (
            {"role": "user", "content": [{**RESULT, "content": [{"type": "document"}]}]},
            "messages[1].content[0].content[0]",
        ),
    ],
)
def test_what_is_wrong_is_named(chat_api: Api, turn: dict[str, Any], param: str) -> None:
    assert ask(chat_api, messages=[*HELLO, turn])["param"] == param


def test_what_the_worker_refuses_is_called_as_in_the_body(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(fail="unsupported", fail_param="messages[2].content", fail_message="'messages[2].content'!"))
    turns = [*HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]
    error = ask(chat_api, messages=turns)
    where = "messages[2].content[0].content"
    assert (error["param"], error["message"]) == (where, f"'{where}'!")


def test_tokens_are_counted_of_the_same_prompt(chat_api: Api, worker: ScriptedWorker) -> None:
    turns = [*HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]
    assert ask(chat_api, messages=turns) is None
    assert chat_api.post("/v1/tokenize", {"model": "scripted", "messages": turns}).status_code == 200
    asked, counted = worker.received
    assert counted.request.messages == asked.messages
