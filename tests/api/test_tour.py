"""A tour through all endpoints of a real server with real models: no answer, event or error leaves the document."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.tour import Tour
from tests.mcp_servers import run_server
from tests.recordings import make_recording
from tests.served_models import MODELS, serve_models
from tests.web_process import SECRET, run_python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # five processes

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CONVERSATIONS = "/v1/conversations"
CONVERSATION = CONVERSATIONS + "/{conversation_id}"
RESPONSE, ITEMS, CANCEL = (RESPONSES + "/{response_id}" + end for end in ("", "/input_items", "/cancel"))
HELLO: dict[str, Any] = {
    "model": "chat",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "max_tokens": 40,
    "seed": 1,
}
ONCE: dict[str, Any] = {"model": "chat", "prompt": "Once upon a time", "max_tokens": 8, "seed": 1}
ASK: dict[str, Any] = {"model": "chat", "input": "hello", "max_output_tokens": 12, "seed": 1}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
FLAT_TOOLS = [{"type": "function", "name": "get_weather", "parameters": SCHEMA}]
_DIGITS = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /[0-9]/~2..4"}}
CUSTOM = {"type": "custom", "custom": {"name": "dial", "format": _DIGITS}}
CHAT_FIELDS: list[dict[str, Any]] = [
    {},
    {"n": 2, "logprobs": True, "top_logprobs": 3},
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "logprobs": True},
    {"tools": [CUSTOM], "tool_choice": {"type": "custom", "custom": {"name": "dial"}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    {"stream_options": {"include_usage": True}},
    {"max_tokens": 1},
]
# Runs in the installation under test: a server of tools by its URL.
_REGISTER = """
import sys, django
django.setup()
from apps.mcp.models import McpServer
from apps.mcp.services import enable_all_tools, refresh_tools
server = McpServer.objects.create(name="kit", url=sys.argv[1], may_be_private=True)
assert refresh_tools(server=server), server.error
enable_all_tools(server=server)
"""


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    with run_server() as tools, serve_models(tmp_path_factory.mktemp("tour")) as web:
        run_python(web.environment, "-c", _REGISTER, tools.url())
        tour = Tour(web.url, {"Authorization": f"Bearer {SECRET}"})
        with tour.client:
            yield tour


def test_every_answer_and_event_is_as_documented(tour: Tour) -> None:
    see_models(tour)
    see_chats(tour)
    see_completions(tour)
    see_responses(tour)
    see_tools(tour)
    see_messages(tour)
    see_vectors(tour)
    see_recordings(tour)
    see_conversations(tour)
    see_files_and_batches(tour)
    assert tour.operations - tour.visited == set()


def see_models(tour: Tour) -> None:
    for name in MODELS:
        tour.ask("POST", "/load_model", json={"model": name})
    listed = tour.ask("GET", "/v1/models")["data"]
    assert {model["id"] for model in listed} >= set(MODELS)
    assert tour.ask("GET", "/v1/models/{model_id}", at="/v1/models/chat")["id"] == "chat"


def see_chats(tour: Tour) -> None:
    for fields in CHAT_FIELDS:
        whole = tour.ask("POST", CHAT, json=HELLO | fields)
        events = tour.ask("POST", CHAT, json=HELLO | fields | {"stream": True})
        streamed = [""] * len(whole["choices"])
        for choice in (choice for event in events for choice in event["choices"]):
            streamed[choice["index"]] += choice["delta"].get("content") or ""
        assert streamed == [choice["message"]["content"] or "" for choice in whole["choices"]]


def see_completions(tour: Tour) -> None:
    for fields in (
        {},
        {"logprobs": 2},
        {"echo": True, "n": 2},
        {"echo": True, "logprobs": 1},
        {"prompt": ["a", [5, 6]][:1], "stop": "e"},
    ):
        tour.ask("POST", COMPLETIONS, json=ONCE | fields)
        fields = fields | {"stream": True, "stream_options": {"include_usage": True}}  # noqa: PLW2901
        tour.ask("POST", COMPLETIONS, json=ONCE | fields)
    tour.ask("POST", COMPLETIONS, json=ONCE | {"best_of": 3})
    tour.ask("POST", COMPLETIONS, json=ONCE | {"echo": True, "logprobs": 0, "max_tokens": 0})


def see_responses(tour: Tour) -> None:
    kept = tour.ask("POST", RESPONSES, json=ASK)["id"]
    for fields in ({}, {"tools": FLAT_TOOLS, "tool_choice": "required"}, {"top_logprobs": 2}):
        tour.ask("POST", RESPONSES, json=ASK | fields | {"stream": True, "previous_response_id": kept})
    at = f"{RESPONSES}/{kept}"
    tour.ask("GET", RESPONSE, at=at)
    assert tour.ask("GET", ITEMS, at=f"{at}/input_items")["data"]
    tour.ask("DELETE", RESPONSE, at=at)
    tour.ask("GET", RESPONSE, 404, at=at)
    queued = tour.ask("POST", RESPONSES, json=ASK | {"background": True, "max_output_tokens": 200})["id"]
    tour.ask("POST", CANCEL, at=f"{RESPONSES}/{queued}/cancel")


def see_tools(tour: Tour) -> None:
    kit = {"type": "mcp", "server_label": "kit", "require_approval": "never", "allowed_tools": ["greet"]}
    choice = {"type": "mcp", "server_label": "kit", "name": "greet"}
    body = {"model": "chat", "input": "hello", "tools": [kit], "tool_choice": choice, "max_tool_calls": 1, "seed": 1}
    for fields in ({}, {"tools": [kit | {"require_approval": "always"}]}):
        whole = tour.ask("POST", RESPONSES, json=body | fields)
        last = tour.ask("POST", RESPONSES, json=body | fields | {"stream": True})[-1]["response"]
        for response in (whole, last):
            kinds = [item["type"] for item in response["output"]]
            assert kinds[:2] == ["mcp_list_tools", "mcp_approval_request" if fields else "mcp_call"]
    given = {"type": "mcp_approval_response", "approval_request_id": last["output"][1]["id"], "approve": True}
    body = body | {"input": [given], "previous_response_id": last["id"], "tool_choice": "auto"}
    events = tour.ask("POST", RESPONSES, json=body | {"stream": True})
    assert events[-1]["response"]["output"][0]["output"] == "안녕하세요"
    assert tour.ask("POST", CHAT, json=HELLO | {"mcp_servers": ["kit"]})["choices"]


def see_messages(tour: Tour) -> None:
    body = {"model": "chat", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
    tour.ask("POST", "/v1/messages", json=body)
    assert tour.ask("POST", "/v1/messages", json=body | {"stream": True})[-1]["type"] == "message_stop"
    tour.ask("POST", "/v1/messages/count_tokens", json={"model": "chat", "messages": body["messages"]})
    tokens = tour.ask("POST", "/v1/tokenize", json={"model": "chat", "prompt": "hello"})["tokens"]
    assert tour.ask("POST", "/v1/detokenize", json={"model": "chat", "tokens": tokens})["prompt"] == "hello"


def see_conversations(tour: Tour) -> None:
    given = {"items": [{"role": "user", "content": "hello"}]}
    made = tour.ask("POST", CONVERSATIONS, json=given)["id"]
    at = {"at": f"{CONVERSATIONS}/{made}"}
    tour.ask("POST", RESPONSES, json=ASK | {"conversation": made, "stream": True})
    tour.ask("GET", CONVERSATION, **at)
    tour.ask("POST", CONVERSATION, **at, json={"metadata": {"a": "b"}})
    items = f"{at['at']}/items"
    added = tour.ask("POST", f"{CONVERSATION}/items", at=items, json=given)["data"][0]["id"]
    assert len(tour.ask("GET", f"{CONVERSATION}/items", at=items)["data"]) == 4
    for method in ("GET", "DELETE"):
        tour.ask(method, f"{CONVERSATION}/items/{{item_id}}", at=f"{items}/{added}")
    tour.ask("DELETE", CONVERSATION, **at)


def see_files_and_batches(tour: Tour) -> None:
    line = {"custom_id": "a", "method": "POST", "url": COMPLETIONS, "body": ONCE}
    files = {"file": ("lines.jsonl", json.dumps(line).encode() + b"\n")}
    uploaded = tour.ask("POST", "/v1/files", data={"purpose": "batch"}, files=files)
    assert uploaded["id"] in [file["id"] for file in tour.ask("GET", "/v1/files")["data"]]
    at = f"/v1/files/{uploaded['id']}"
    tour.ask("GET", "/v1/files/{file_id}", at=at)
    assert json.loads(tour.ask("GET", "/v1/files/{file_id}/content", at=f"{at}/content")) == line
    body = {"input_file_id": uploaded["id"], "endpoint": COMPLETIONS, "completion_window": "24h"}
    batch = tour.ask("POST", "/v1/batches", json=body)["id"]
    assert tour.ask("GET", "/v1/batches")["data"]
    tour.ask("GET", "/v1/batches/{batch_id}", at=f"/v1/batches/{batch}")
    tour.ask("POST", "/v1/batches/{batch_id}/cancel", at=f"/v1/batches/{batch}/cancel")
    other = tour.ask("POST", "/v1/files", data={"purpose": "user_data"}, files=files)["id"]
    tour.ask("DELETE", "/v1/files/{file_id}", at=f"/v1/files/{other}")


def see_vectors(tour: Tour) -> None:
    for encoding in ("float", "base64"):
        body = {"model": "embedder", "input": ["w1 w2", "w3"], "encoding_format": encoding, "dimensions": 8}
        tour.ask("POST", "/v1/embeddings", json=body)
    body = {"model": "reranker", "query": "w1", "documents": ["w2", {"text": "w3"}]}
    tour.ask("POST", "/v1/rerank", json=body)
    tour.ask("POST", "/v1/rerank", json=body | {"top_n": 1, "return_documents": True})
    tour.ask("POST", "/v1/score", json={"model": "reranker", "text_1": "w1", "text_2": ["w2", "w3"]})


def see_recordings(tour: Tour) -> None:
    files = {"file": ("a.wav", make_recording(3.0))}
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        for kind in ("json", "text", "srt", "vtt", "verbose_json"):
            tour.ask("POST", path, data={"model": "whisper", "response_format": kind}, files=files)
    words = {"model": "whisper", "response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    assert tour.ask("POST", "/v1/audio/transcriptions", data=words, files=files)["words"]
    assert tour.ask("POST", "/v1/audio/transcriptions", data={"model": "whisper", "stream": "true"}, files=files)


ERRORS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "malformed": (400, CHAT, {"content": b"{", "headers": {"content-type": "application/json"}}),
    "unknown_field": (400, CHAT, {"json": HELLO | {"colour": "red"}}),
    "refused": (400, COMPLETIONS, {"json": ONCE | {"suffix": "end"}}),
    "too_long": (400, CHAT, {"json": HELLO | {"messages": [{"role": "user", "content": "a b c d " * 50_000}]}}),
    "no_key": (401, CHAT, {"json": HELLO, "headers": {"authorization": ""}}),
    "no_model": (404, CHAT, {"json": HELLO | {"model": "../../etc/passwd"}}),
    "no_response": (404, RESPONSES, {"json": ASK | {"model": "nobody"}}),
    "form": (415, RESPONSES, {"data": {"model": "chat"}}),
    "json_for_a_form": (415, "/v1/audio/transcriptions", {"json": {"model": "whisper"}}),
    "no_recording": (
        400,
        "/v1/audio/transcriptions",
        {"data": {"model": "whisper"}, "files": {"file": ("a.wav", b"x")}},
    ),
    "wrong_task": (400, "/v1/embeddings", {"json": {"model": "chat", "input": "x"}}),
    "not_an_item": (400, RESPONSES, {"json": ASK | {"input": [{"type": "computer_call"}]}}),
    "unread_previous": (400, RESPONSES, {"json": ASK | {"previous_response_id": "resp_none"}}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_as_documented(tour: Tour, name: str) -> None:
    status, path, fields = ERRORS[name]
    error = tour.ask("POST", path, status, **fields)["error"]
    assert error["message"]
