"""Chat completions with `mcp_servers`: the client sees the answer, and not what was called for it."""

import json
from typing import Any

import openai

from apps.mcp.models import McpServer
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.sse import parse_events
from tests.factories import make_team
from tests.mcp.conftest import call, say_calls, script
from tests.scripted_worker import Answer, ScriptedWorker

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "1 + 2?"}], "mcp_servers": ["kit"]}
TEXT = Answer.of("It ", "is ", "3.")
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_the_answer_comes_after_the_calls(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2}), text="Hm. "), TEXT)
    completion = chat_api.post("/v1/chat/completions", BODY).json()
    (choice,) = completion["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hm. It is 3.", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert completion["usage"]["completion_tokens"] == 6
    assert [message["role"] for message in worker.generates[1].messages or []] == ["user", "assistant", "tool"]
    assert {row.id for row in wait_for_settled_rows(2)} == {completion["id"], f"{completion['id']}.2"}


def test_streams_are_whole(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    for options in ({"include_usage": True}, {"include_usage": True, "resumable": True}):
        script(worker, say_calls(call("kit__add", {"a": 1, "b": 2}), text="Hm. "), TEXT)
        response = chat_api.post("/v1/chat/completions", BODY | {"stream": True, "stream_options": options})
        text = "\n\n".join(
            "\n".join(line for line in block.splitlines() if not line.startswith("id: "))
            for block in response.text.split("\n\n")
        )
        *chunks, last = parse_events(text)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant"}
        assert sum("role" in delta for delta in deltas) == 1
        assert not any("tool_calls" in delta for delta in deltas)
        assert "".join(delta.get("content", "") for delta in deltas) == "Hm. It is 3."
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
            "stop"
        ]
        assert last["usage"]["completion_tokens"] == 6
        assert text.rstrip().endswith("[DONE]")


def test_functions_of_the_client_end_the_answer(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    mixed = say_calls(call("kit__add", {"a": 1, "b": 2}), call("look", {"at": 1}, index=1))
    script(worker, mixed, TEXT)
    (choice,) = chat_api.post("/v1/chat/completions", BODY | {"tools": [LOOK]}).json()["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("look", {"at": 1})
    assert choice["finish_reason"] == "tool_calls"
    assert len(worker.generates) == 1
    script(worker, mixed, TEXT)
    stream = chat_api.post("/v1/chat/completions", BODY | {"tools": [LOOK], "stream": True})
    pieces = [
        piece
        for chunk in parse_events(stream.text)
        for choice in chunk["choices"]
        for piece in choice["delta"].get("tool_calls") or []
    ]
    assert {piece["index"] for piece in pieces} == {0}


def test_the_openai_client_names_servers_in_its_extra_body(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer
) -> None:
    script(worker, say_calls(call("kit__greet", {})), TEXT)
    messages: Any = BODY["messages"]
    with openai.OpenAI(base_url=f"{chat_api.url}/v1", api_key=chat_api.secret) as client:
        completion = client.chat.completions.create(
            model="scripted", messages=messages, extra_body={"mcp_servers": ["kit"]}
        )
    assert completion.choices[0].message.content == "It is 3."


def test_what_cannot_be_is_refused_by_name(chat_api: Api, registered: McpServer) -> None:
    def refuse(**fields: Any) -> dict[str, Any]:
        response = chat_api.post("/v1/chat/completions", BODY | fields)
        assert response.status_code == 400, response.text
        return response.json()["error"]

    assert refuse(mcp_servers=["kit", "unknown"])["param"] == "mcp_servers[1]"
    assert refuse(mcp_servers=[{"url": "http://example.com"}])["param"] == "mcp_servers[0]"
    assert refuse(n=2)["param"] == "n"
    registered.teams.add(make_team("Others"))
    assert refuse()["param"] == "mcp_servers[0]"
