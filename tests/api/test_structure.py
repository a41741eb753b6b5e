"""The fields that ask for a form of the answer, and `tool_choice`: what each becomes for the worker, or its refusal."""

import json
from typing import Any

import pytest

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest
from apps.openai_api.schemas.chat import parse_chat
from apps.openai_api.schemas.completions import parse_completion
from gpu_worker.protocol import Delta, Structure, ToolCallDelta
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.scripted_worker import Answer, ScriptedWorker

CALLER = Caller(user_id=1, username="ann", team_id=1, key_id=1)
MESSAGES = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"z": {"maximum": 10**30}, "a": {"type": "string"}}}
TEXT = json.dumps(SCHEMA)


def chat(**fields: Any) -> Any:
    return parse_chat(json.dumps({"model": "m", "messages": MESSAGES} | fields).encode(), CALLER).request


def completion(**fields: Any) -> Any:
    return parse_completion(json.dumps({"model": "m", "prompt": ["a", "b"]} | fields).encode(), CALLER).requests[1]


FORMS: list[tuple[dict[str, Any], Structure | None]] = [
    ({}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": None, "guided_json": None, "structured_outputs": None}, None),
    ({"structured_outputs": {}}, None),
    ({"structured_outputs": {"json_object": False}}, None),
    ({"response_format": {"type": "json_object"}}, Structure("json_object")),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}},
        Structure("json_schema", TEXT),
    ),
    ({"response_format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}, Structure("json_schema", TEXT)),
    ({"response_format": {"type": "json_object", "value": SCHEMA}}, Structure("json_schema", TEXT)),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Structure("json_schema", TEXT)),
    ({"response_format": {"type": "json", "value": SCHEMA}}, Structure("json_schema", TEXT)),
    ({"response_format": {"type": "regex", "value": "a+"}}, Structure("regex", "a+")),
    ({"guided_json": SCHEMA}, Structure("json_schema", TEXT, "guided_json")),
    ({"guided_json": TEXT}, Structure("json_schema", TEXT, "guided_json")),
    ({"guided_regex": "a+"}, Structure("regex", "a+", "guided_regex")),
    ({"guided_choice": ["a", "é"]}, Structure("choice", '["a","é"]', "guided_choice")),
    ({"guided_grammar": 'root ::= "a"'}, Structure("grammar", 'root ::= "a"', "guided_grammar")),
    ({"structured_outputs": {"json": SCHEMA}}, Structure("json_schema", TEXT, "structured_outputs.json")),
    ({"structured_outputs": {"json_object": True}}, Structure("json_object", param="structured_outputs.json_object")),
    ({"structured_outputs": {"regex": "a"}}, Structure("regex", "a", "structured_outputs.regex")),
    ({"structured_outputs": {"choice": ["a"]}}, Structure("choice", '["a"]', "structured_outputs.choice")),
    ({"structured_outputs": {"grammar": "x"}}, Structure("grammar", "x", "structured_outputs.grammar")),
]


@pytest.mark.parametrize(("fields", "structure"), FORMS)
def test_every_spelling_becomes_one_form(fields: dict[str, Any], structure: Structure | None) -> None:
    assert chat(**fields).structure == structure
    assert completion(**fields).structure == structure


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": 1}}}, "response_format.json_schema.name"),
        ({"response_format": {"type": "json"}}, "response_format.value"),
        ({"response_format": {"type": "regex", "value": 1}}, "response_format.value"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_json": {"enum": ["x" * 300_000]}}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice[0]"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
    ],
)
def test_a_malformed_form_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    for parse in (chat, completion):
        with pytest.raises(InvalidRequest) as caught:
            parse(**fields)
        assert caught.value.param == param


TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("choice", "sent", "names"),
    [
        (None, None, "fg"),
        ("auto", "auto", "fg"),
        ("none", "none", "fg"),
        ("required", "required", "fg"),
        (NAMED, NAMED, "fg"),
        ({"type": "function", "name": "g"}, NAMED, "fg"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}, "required", "g"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "auto", "f"),
    ],
)
def test_every_tool_choice_reaches_the_worker(choice: Any, sent: Any, names: str) -> None:
    request = chat(tools=TOOLS, tool_choice=choice)
    assert request.tool_choice == sent
    assert "".join(tool["function"]["name"] for tool in request.tools) == names


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": "required", "tools": []},
        {"tool_choice": NAMED},
        {"tool_choice": {"type": "function", "function": {"name": "h"}}, "tools": TOOLS},
        {"tool_choice": {"type": "function"}, "tools": TOOLS},
        {"tool_choice": {"type": "custom", "custom": {"name": "f"}}, "tools": TOOLS},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, "tools": TOOLS},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": 3}, "tools": TOOLS},
        {"tool_choice": {}, "tools": TOOLS},
        {"tool_choice": "any", "tools": TOOLS},
    ],
)
def test_impossible_tool_choices_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == "tool_choice"


def test_strict_is_handed_on() -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}, {"type": "function", "name": "g"}]
    assert [tool["function"].get("strict") for tool in chat(tools=tools).tools] == [True, None]


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_finish_reason_of_an_enforced_call_is_openais(
    chat_api: Api, worker: ScriptedWorker, choice: Any, reason: str
) -> None:
    body = {"model": "scripted", "messages": MESSAGES, "tools": TOOLS, "tool_choice": choice}
    for is_stream in (False, True):
        call = Delta("", tool_calls=[ToolCallDelta(0, "call_1", "g", "{}")])
        worker.reply(Answer(deltas=(call,), reason="tool_calls"))
        response = chat_api.post("/v1/chat/completions", body | {"stream": is_stream})
        last = parse_events(response.text)[-1] if is_stream else response.json()
        assert last["choices"][0]["finish_reason"] == reason
    assert worker.generates[-1].tool_choice == choice


def test_what_the_worker_refuses_is_a_400_that_names_the_field(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(fail="unsupported", fail_message="'not' cannot be enforced.", fail_param="response_format"))
    body = {"model": "scripted", "messages": MESSAGES, "response_format": {"type": "json_object"}}
    response = chat_api.post("/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format")
    assert worker.generates[0].structure == Structure("json_object")
