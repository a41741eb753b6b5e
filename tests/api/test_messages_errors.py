"""What /v1/messages refuses, and how it says so: Anthropic's error objects, on these paths alone."""

import json
from typing import Any

import httpx
import pytest
from django.test import override_settings

from gpu_worker.protocol import Tokenize
from tests.api.conftest import Api
from tests.api.test_messages import CALL, HELLO, IMAGE, LOOK, ask, send
from tests.scripted_worker import Answer, ScriptedWorker

PATHS = ("/v1/messages", "/messages", "/v1/messages/count_tokens", "/messages/count_tokens")
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}


def say(*content: object, role: str = "user") -> dict[str, Any]:
    """Fields of a request with one turn."""
    return {"messages": [{"role": role, "content": list(content)}]}


def check(answer: httpx.Response, status: int, kind: str) -> str:
    """An error in Anthropic's shape; its message."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == body["request_id"]
    assert body["error"].keys() == {"type", "message"}
    return str(body["error"]["message"])


@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_errors_of_its_own_shape(chat_api: Api, path: str) -> None:
    body = {"model": "scripted", "messages": HELLO, "max_tokens": 1}
    url = chat_api.url + path
    assert "/keys" in check(httpx.post(url, json=body), 401, "authentication_error")
    check(httpx.post(url, json=body, headers={"x-api-key": "wrong"}), 401, "authentication_error")
    assert "nobodys" in check(chat_api.post(path, body | {"model": "nobodys"}), 404, "not_found_error")
    with chat_api.client() as client:
        refused = client.get(path)
        check(refused, 405, "invalid_request_error")
        assert refused.headers["allow"] == "POST"
        check(client.post(path, content=b"{"), 400, "invalid_request_error")
        check(client.post(path, content=b"{}", headers={"content-type": "text/plain"}), 415, "invalid_request_error")
        check(client.post(f"{path}/batches", json={}), 404, "not_found_error")
    with override_settings(MAX_BODY_BYTES=10):
        check(chat_api.post(path, body), 413, "request_too_large")


@pytest.mark.parametrize("name", ["x-api-key", "authorization"])
def test_a_key_in_either_header(chat_api: Api, name: str) -> None:
    value = chat_api.secret if name == "x-api-key" else f"Bearer {chat_api.secret}"
    headers = {name: value, "anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"}
    body = {"model": "scripted", "messages": HELLO, "max_tokens": 1}
    answer = httpx.post(f"{chat_api.url}/v1/messages?beta=true", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["request-id"]


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        (Answer(fail="overloaded"), 529, "overloaded_error"),
        (Answer(fail="internal"), 500, "api_error"),
    ],
    ids=["overloaded", "internal"],
)
def test_failures_of_the_worker(chat_api: Api, worker: ScriptedWorker, answer: Answer, status: int, kind: str) -> None:
    worker.reply(answer)
    check(send(chat_api), status, kind)


def test_a_prompt_that_is_too_long_is_called_so(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(fail="context_length_exceeded", fail_message="Say less.", fail_param="messages"))
    assert check(send(chat_api), 400, "invalid_request_error") == "prompt is too long: Say less."


@pytest.mark.parametrize(
    ("param", "fields", "told"),
    [
        ("messages[1].content[1].image_url", {}, "messages[1].content[1].source: broken"),
        ("messages[1]", {}, "messages[1]: broken"),
        ("messages[2].content[0]", {}, "messages[2].content[0].content[0]: broken"),
        ("messages", {}, "messages: broken"),
        ("enable_thinking", {}, "thinking.type: broken"),
        ("reasoning_effort", {}, "output_config.effort: broken"),
        ("tools[0].function.parameters", {"tools": [LOOK]}, "tools[0].input_schema: broken"),
    ],
)
def test_the_worker_s_refusals_name_what_the_client_sent(
    chat_api: Api, worker: ScriptedWorker, param: str, fields: dict[str, object], told: str
) -> None:
    text = {"type": "text", "text": "see"}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text, IMAGE]},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [{**RESULT, "content": [text]}]},
    ]
    # The first two are one message to the worker, after that of the system.
    moved = {"messages[1].content[1].image_url": "messages[1].content[2].image_url", "messages[1]": "messages[2]"}
    moved["messages[2].content[0]"] = "messages[3].content[0]"
    worker.reply(Answer(fail="unsupported", fail_message="broken", fail_param=moved.get(param, param)))
    expected = told.replace("messages[2].content[0].content", "messages[3].content[0].content")
    expected = expected.replace("messages[1]: ", "messages[2]: ")
    answer = send(chat_api, messages=turns, system="Be kind.", **fields)
    assert check(answer, 400, "invalid_request_error") == expected


@pytest.mark.parametrize(
    ("named", "fields"),
    [
        ("max_tokens", {"max_tokens": 0}),
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": "a"}]}),
        ("messages[0].content", say()),
        ("messages[0].content[0].text", say({"type": "text"})),
        ("messages[0].content[0]", say({"type": "document", "source": {"type": "text", "data": "a"}})),
        ("messages[0].content[0]", say({"type": "search_result", "source": "a", "title": "b", "content": []})),
        ("messages[0].content[0]", say({"type": "tool_use", "id": "a", "name": "b", "input": {}})),
        ("messages[0].content[0].tool_use_id", say({"type": "tool_result"})),
        ("messages[0].content[0].content[0]", say({**RESULT, "content": [{"type": "tool_reference"}]})),
        ("messages[0].content[0].source", say({"type": "image"})),
        ("messages[0].content[0].source.type", say({"type": "image", "source": {"type": "file", "file_id": "a"}})),
        ("messages[0].content[0].source", say({"type": "image", "source": {"type": "base64", "data": "a"}})),
        (
            "messages[0].content[0].source",
            say({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/"}}),
        ),
        ("messages[0].content[0]", say(IMAGE, role="assistant")),
        ("messages[0].content[0]", say({"type": "redacted_thinking", "data": "a"}, role="assistant")),
        ("messages[0].content[0].id", say({"type": "tool_use", "name": "a", "input": {}}, role="assistant")),
        ("messages[0].content[0].input", say({**CALL, "input": [1]}, role="assistant")),
        ("messages[0].content[0]", say({"type": "server_tool_use", "id": "a", "name": "b"}, role="assistant")),
        ("messages[0]", say(CALL, role="assistant")),
        ("messages[0]", say({"type": "thinking", "thinking": "a", "signature": "b"}, role="assistant")),
        ("messages[0].content[0]", say(IMAGE, role="system")),
        ("system[0]", {"system": [IMAGE]}),
        ("web_search_20250305", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("computer_20250124", {"tools": [{"type": "computer_20250124", "name": "computer", "display_width_px": 9}]}),
        ("tools[0].input_schema", {"tools": [{"name": "look"}]}),
        ("tools[0].defer_loading", {"tools": [{**LOOK, "defer_loading": True}]}),
        ("tools[0].input_examples", {"tools": [{**LOOK, "input_examples": [{}]}]}),
        ("tools[0].allowed_callers", {"tools": [{**LOOK, "allowed_callers": ["code_execution_20250825"]}]}),
        ("tool_choice", {"tool_choice": {"type": "any"}}),
        ("tool_choice", {"tools": [LOOK], "tool_choice": {"type": "tool", "name": "other"}}),
        ("tool_choice.name", {"tools": [LOOK], "tool_choice": {"type": "tool"}}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 0}}),
        ("thinking.type", {"thinking": {"type": "between_tools"}}),
        ("output_config", {"output_config": {"task_budget": {"type": "tokens", "total": 9}}}),
        ("output_config.format.schema", {"output_config": {"format": {"type": "json_schema"}}}),
        ("context_management", {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
        ("mcp_servers", {"mcp_servers": [{"type": "url", "url": "http://example.com", "name": "a"}]}),
        ("container", {"container": "a"}),
        ("speed", {"speed": "fast"}),
        ("temperature", {"temperature": 1.5}),
        ("stop_sequences", {"stop_sequences": "a"}),
        ("stop", {"stop": ["a"]}),
        ("n", {"n": 2}),
    ],
)
def test_what_cannot_be_honoured_is_a_400_that_names_it(chat_api: Api, named: str, fields: dict[str, object]) -> None:
    message = check(send(chat_api, **fields), 400, "invalid_request_error")
    assert f"'{named}'" in message or named in message.split(":")[0], message


def test_max_tokens_is_required(chat_api: Api) -> None:
    answer = chat_api.post("/v1/messages", {"model": "scripted", "messages": HELLO})
    assert "max_tokens" in check(answer, 400, "invalid_request_error")


def test_counting_asks_for_the_same_prompt_and_no_tokens(chat_api: Api, worker: ScriptedWorker) -> None:
    fields = {"tools": [LOOK], "system": "Be kind.", "thinking": {"type": "adaptive"}}
    asked = ask(chat_api, worker, **fields)
    body = {"model": "scripted", "messages": HELLO, **fields}
    for extra in ({}, {"max_tokens": 9, "stream": True, "metadata": {}}):
        assert chat_api.post("/v1/messages/count_tokens", body | extra).json() == {"input_tokens": 5}
    question = worker.received[-1]
    assert isinstance(question, Tokenize)
    counted = question.request
    assert not question.with_tokens
    assert (counted.messages, counted.tools, counted.reasoning) == (asked.messages, asked.tools, asked.reasoning)
    refused = chat_api.post("/v1/messages/count_tokens", body | {"n": 2})
    assert "'n'" in check(refused, 400, "invalid_request_error")


def test_the_openapi_document_has_them(chat_api: Api) -> None:
    with chat_api.client() as client:
        document = client.get("/schema").json()
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/tokenize", "/v1/detokenize"):
        assert document["paths"][path]["post"]["operationId"]
    assert "MessagesError" in json.dumps(document["paths"]["/v1/messages"])
