"""Custom tools of the Responses API: the model's text streamed, enforced by an expression, given back as history."""

import json
import random
from typing import Any

import pytest

from apps.openai_api.encoders.custom_calls import InputReader
from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api
from tests.api.open_responses import check_item
from tests.api.test_responses import FILES, HELLO, PATH, ask, ask_stream, refuse
from tests.api.test_responses_sdk import demo
from tests.api.test_responses_state import get
from tests.api.test_sdks import make_openai
from tests.scripted_worker import Answer, ScriptedWorker

__all__ = ["demo"]  # a fixture

PATCH = {"type": "custom", "name": "patch", "description": "Change a file."}
DIGITS = {"type": "grammar", "syntax": "regex", "definition": "[0-9]{2,4}"}
TEXT = 'say "hi"\n\tto\\ 😀 ünï'


def call(arguments: str, *, name: str = "patch", size: int = 3) -> Answer:
    """The model calls a tool, in pieces of so many characters."""
    pieces = [arguments[place : place + size] for place in range(0, len(arguments), size)]
    deltas = [Delta("", tool_calls=[ToolCallDelta(0, "call_1", name)])]
    deltas += [Delta("", tool_calls=[ToolCallDelta(0, arguments=piece)]) for piece in pieces]
    return Answer(deltas=tuple(deltas), reason="tool_calls")


@pytest.mark.parametrize("arguments", [json.dumps({"input": TEXT}), json.dumps({"input": TEXT}, ensure_ascii=False)])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_input_is_streamed_as_the_text_it_is(chat_api: Api, worker: ScriptedWorker, arguments: str, size: int) -> None:
    worker.reply(call(arguments, size=size))
    final = ask_stream(chat_api, tools=[PATCH])[-1]["response"]
    (item,) = final["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", TEXT)
    assert item["id"].startswith("ctc_")
    assert final["tools"] == [{**PATCH, "format": {"type": "text"}}]
    worker.reply(call(arguments))
    assert ask(chat_api, tools=[PATCH])["output"][0]["input"] == TEXT


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("*** Begin Patch", "*** Begin Patch"),
        ('{"patch": "x"}', '{"patch": "x"}'),
        ('{"inp', '{"inp'),
        ('{"input": "cut', "cut"),
        ('{"input": "cut \\u00e', "cut "),
        ('{"input": "\\ud83d is half a pair"}', "\N{REPLACEMENT CHARACTER} is half a pair"),
        ('{ "input" :\n"a", "more": 1}', "a"),
        ('{"input": ""}', ""),
        ("", ""),
    ],
    ids=["raw", "other", "head", "cut", "escape", "surrogate", "more", "empty", "nothing"],
)
def test_arguments_of_another_form_are_read_as_far_as_they_go(arguments: str, text: str) -> None:
    for size in (1, 4, 1000):
        reader = InputReader()
        pieces = [reader.add(arguments[place : place + size]) for place in range(0, len(arguments), size)]
        assert "".join([*pieces, reader.end()]) == text


def test_any_text_survives_in_any_pieces() -> None:
    rng = random.Random(7)
    for _ in range(300):
        text = "".join(rng.choice('a"\\\n\t{}u0dé😀\U0001d11e\x00\x7f') for _ in range(rng.randrange(30)))
        arguments = json.dumps({"input": text}, ensure_ascii=rng.random() < 0.5)
        reader, read = InputReader(), ""
        while arguments:
            size = rng.randrange(1, 9)
            read += reader.add(arguments[:size])
            arguments = arguments[size:]
        assert read + reader.end() == text


def test_model_knows_a_function_with_one_argument(chat_api: Api, worker: ScriptedWorker) -> None:
    digits = {"type": "custom", "name": "dial", "format": DIGITS}
    namespace = FILES | {"tools": [PATCH, {"type": "function", "name": "read"}]}
    answer = ask(chat_api, tools=[PATCH, digits, namespace], tool_choice={"type": "custom", "name": "dial"})
    (sent,) = worker.generates
    patch, dial, member, _ = [tool["function"] for tool in sent.tools or []]
    assert patch["parameters"]["properties"] == {"input": {"type": "string"}}
    assert "strict" not in patch
    assert dial["parameters"]["properties"]["input"]["pattern"] == "^(?:[0-9]{2,4})$"
    assert dial["strict"]
    assert member["name"] == "mcp__files__patch"
    assert sent.tool_choice == {"type": "function", "function": {"name": "dial"}}
    assert answer["tool_choice"] == {"type": "custom", "name": "dial"}
    assert answer["tools"][1] == {"type": "custom", "name": "dial", "description": None, "format": DIGITS}


def test_custom_tool_of_a_namespace_is_called_by_both_names(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(call('{"input": "x"}', name="mcp__files__patch"))
    (item,) = ask(chat_api, tools=[FILES | {"tools": [PATCH]}])["output"]
    assert (item["namespace"], item["name"], item["input"]) == ("mcp__files", "patch", "x")


def test_calls_and_outputs_are_history(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(call(json.dumps({"input": TEXT})))
    first = ask(chat_api, tools=[PATCH])
    output = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "done"}
    worker.say("good")
    second = ask(chat_api, tools=[PATCH], input=[output], previous_response_id=first["id"])
    _, asked, told = worker.generates[1].messages or []
    (made,) = asked["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("patch", {"input": TEXT})
    assert told == {"role": "tool", "content": "done", "tool_call_id": "call_1"}
    items = get(chat_api, f"{second['id']}/input_items", order="asc")["data"]
    assert [item["type"] for item in items] == ["message", "custom_tool_call", "custom_tool_call_output"]
    for item in items[1:]:
        item.pop("status") if item["type"] == "custom_tool_call_output" else None
        check_item(item)


def test_what_is_wrong_with_a_format_is_named(chat_api: Api, worker: ScriptedWorker) -> None:
    place = "tools[0].function.parameters.properties.input.pattern"
    worker.reply(Answer(fail="invalid_request", fail_param=place, fail_message=f"'{place}' is wrong"))
    error = refuse(chat_api, tools=[{"type": "custom", "name": "dial", "format": DIGITS}])
    assert (error["param"], error["message"]) == ("tools[0].format.definition", "'tools[0].format.definition' is wrong")


def test_search_that_may_not_touch_the_web_is_not_offered(chat_api: Api, worker: ScriptedWorker) -> None:
    answer = ask(chat_api, tools=[{"type": "web_search", "external_web_access": False}, PATCH])
    assert [tool["function"]["name"] for tool in worker.generates[0].tools or []] == ["patch"]
    assert [tool["type"] for tool in answer["tools"]] == ["custom"]
    assert refuse(chat_api, tools=[{"type": "web_search"}])["param"] == "tools[0].type"


def test_openai_sdk_reads_the_call(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(call(json.dumps({"input": TEXT})))
    with (
        make_openai(chat_api) as client,
        client.responses.stream(model="scripted", input="hi", tools=[PATCH]) as stream,
    ):
        deltas = [event.delta for event in stream if event.type == "response.custom_tool_call_input.delta"]
        (item,) = stream.get_final_response().output
    assert item.type == "custom_tool_call"
    assert "".join(deltas) == item.input == TEXT


@pytest.mark.slow
def test_demo_model_writes_what_the_expression_allows(demo: None, api: Api) -> None:
    dial = {"type": "custom", "name": "dial", "description": "Dial a number.", "format": DIGITS}
    body: dict[str, Any] = HELLO | {"model": "demo", "input": "Call me.", "tools": [dial], "tool_choice": "required"}
    answer = api.post(PATH, body | {"parallel_tool_calls": False}).json()
    (item,) = answer["output"]
    assert item["type"] == "custom_tool_call"
    assert item["input"].isdigit()
    assert 2 <= len(item["input"]) <= 4
    broken = dial | {"format": DIGITS | {"definition": "["}}
    error = api.post(PATH, body | {"tools": [broken]}).json()["error"]
    assert error["param"] == "tools[0].format.definition"
