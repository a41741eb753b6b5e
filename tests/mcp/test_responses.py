"""/v1/responses with tools of type `mcp`: what is called, what the model is told, and every event of the stream."""

import base64
import json
from typing import Any

import msgspec
import openai
import pytest

from apps.mcp.models import CallStatus, McpServer
from tests.api.conftest import Api, wait_for_settled_rows, wait_until
from tests.mcp.conftest import FREE, ask, call, say_calls, script, wait_for_record
from tests.mcp.events import check_events
from tests.mcp_servers import PIXEL, RunningServer
from tests.scripted_worker import Answer, ScriptedWorker

TEXT = Answer.of("It ", "is ", "3.")


def list_kinds(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


def test_a_tool_is_called_and_the_model_goes_on(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2}), text="Let me see."), TEXT)
    response = ask(chat_api)
    assert list_kinds(response) == ["mcp_list_tools", "message", "mcp_call", "message"]
    listed, _, called, said = response["output"]
    assert [tool["name"] for tool in listed["tools"]][:2] == ["add", "greet"]
    assert listed["tools"][0]["annotations"]["readOnlyHint"]
    assert (called["name"], called["server_label"], called["status"]) == ("add", "kit", "completed")
    assert (json.loads(called["arguments"]), called["output"], called["error"]) == ({"a": 1, "b": 2}, "3", None)
    assert said["content"][0]["text"] == "It is 3."
    first, second = worker.generates
    assert {tool["function"]["name"] for tool in first.tools or []} >= {"kit__add", "kit__fail"}
    assert [message["role"] for message in second.messages or []] == ["user", "assistant", "tool"]
    assert (second.messages or [])[2]["content"] == "3"
    assert response["tools"] == [FREE]


def test_each_round_has_a_row_and_the_response_their_sum(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer
) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    response = ask(chat_api)
    rows = {row.id: row for row in wait_for_settled_rows(2)}
    assert set(rows) == {response["id"], f"{response['id']}.2"}
    assert response["usage"]["output_tokens"] == sum(row.completion_tokens for row in rows.values()) == 5
    assert response["usage"]["input_tokens"] == 10
    record = wait_for_record(request_id=response["id"])
    assert (record.server, record.tool, record.status) == (registered, "add", CallStatus.OK)
    assert (record.request_id, record.user_id) == (response["id"], rows[response["id"]].user_id)


def test_every_event_is_as_documented(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    calls = call("kit__add", {"a": 1, "b": 2}), call("kit__fail", {}, index=1)
    script(worker, say_calls(*calls, text="Well."), TEXT)
    body = {"model": "scripted", "input": "Hi", "tools": [FREE], "stream": True}
    events = check_events(chat_api.post("/v1/responses", body).text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:7] == [
        *("created", "in_progress", "output_item.added", "mcp_list_tools.in_progress"),
        *("mcp_list_tools.completed", "output_item.done", "output_item.added"),
    ]
    for name in ("mcp_call.in_progress", "mcp_call_arguments.done"):
        assert kinds.count(name) == 2
    assert kinds.index("mcp_call.in_progress") < kinds.index("mcp_call_arguments.delta")
    assert kinds.count("mcp_call.completed") == kinds.count("mcp_call.failed") == 1
    response = events[-1]["response"]
    assert list_kinds(response) == ["mcp_list_tools", "message", "mcp_call", "mcp_call", "message"]
    error = response["output"][3]["error"]
    assert error["type"] == "mcp_tool_execution_error"
    assert "the disk is full" in str(error["content"])
    contents = [message["content"] for message in worker.generates[1].messages or [] if message["role"] == "tool"]
    assert contents[0] == "3"
    assert contents[1].startswith("Error: ")


def test_whole_answers_are_the_fold_of_the_stream(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__greet", {})), TEXT)
    whole = ask(chat_api)
    script(worker, say_calls(call("kit__greet", {})), TEXT)
    body = {"model": "scripted", "input": "1 + 2?", "tools": [FREE], "stream": True}
    streamed = check_events(chat_api.post("/v1/responses", body).text)[-1]["response"]

    def strip(response: dict[str, Any]) -> str:
        own = response["id"].removeprefix("resp_")
        text = json.dumps({**response, "created_at": 0, "completed_at": 0})
        return text.replace(own, "")

    assert strip(whole) == strip(streamed)


def test_a_server_is_brought_along_by_its_url(chat_api: Api, worker: ScriptedWorker, tools: RunningServer) -> None:
    script(worker, say_calls(call("mine__who", {})), TEXT)
    tool = {
        "type": "mcp",
        "server_label": "mine",
        "server_url": tools.url(),
        "require_approval": "never",
        "allowed_tools": ["who"],
        "headers": {"X-Tenant": "blue", "Host": "evil"},
        "authorization": "secret-token",
    }
    response = ask(chat_api, tool)
    assert [tool["name"] for tool in response["output"][0]["tools"]] == ["who"]
    (seen,) = tools.tools.headers
    assert (seen["x-tenant"], seen["authorization"]) == ("blue", "Bearer secret-token")
    assert seen["host"] == f"127.0.0.1:{tools.port}"
    assert "secret" not in json.dumps(response)
    with chat_api.client() as client:
        stored = client.get(f"/v1/responses/{response['id']}")
    assert stored.json()["output"] == response["output"]
    assert "secret" not in stored.text
    record = wait_for_record(request_id=response["id"])
    assert (record.server, record.origin) == (None, tools.url(""))


def test_pictures_reach_the_client(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__paint", {})), TEXT)
    called = ask(chat_api)["output"][1]
    text, picture = json.loads(called["output"])
    assert (text["text"], base64.b64decode(picture["data"])) == ("painted", PIXEL)
    assert (worker.generates[1].messages or [])[-1]["content"] == f"painted\n[image, image/png, {len(PIXEL)} bytes]"


def test_pictures_reach_models_that_see(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    worker.info = msgspec.structs.replace(worker.info, supports_images=True)
    script(worker, say_calls(call("kit__paint", {})), TEXT)
    first = ask(chat_api)
    last = worker.generates[-1]
    assert [part["type"] for part in (last.messages or [])[-1]["content"]] == ["text", "image"]
    assert list((last.media or {}).values()) == [PIXEL]
    ask(chat_api, input="And?", previous_response_id=first["id"])
    assert "[image, image/png" in str(worker.generates[-1].messages)


def test_a_function_of_the_clients_ends_the_response(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer
) -> None:
    function = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2}), call("look", {"at": "it"}, index=1)), TEXT)
    response = ask(chat_api, tools=[function, FREE])
    assert list_kinds(response) == ["mcp_list_tools", "mcp_call", "function_call"]
    assert response["output"][1]["output"] == "3"
    assert len(worker.generates) == 1
    output = {"type": "function_call_output", "call_id": response["output"][2]["call_id"], "output": "seen"}
    ask(chat_api, tools=[function, FREE], input=[output], previous_response_id=response["id"])
    messages = worker.generates[1].messages or []
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"]["name"] == "kit__add"


def test_the_next_response_knows_the_calls_and_lists_nothing_anew(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer
) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    first = ask(chat_api)
    second = ask(chat_api, input="And?", previous_response_id=first["id"])
    assert list_kinds(second) == ["message"]
    roles = [message["role"] for message in worker.generates[-1].messages or []]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_rounds_tokens_and_calls_are_bounded(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer, settings: Any
) -> None:
    settings.MCP_MAX_ROUNDS = 3
    script(worker, say_calls(call("kit__greet", {})))
    response = ask(chat_api)
    assert list_kinds(response) == ["mcp_list_tools", *["mcp_call"] * 3]
    assert [item["status"] for item in response["output"][1:]] == ["completed", "completed", "incomplete"]
    assert worker.generates[-1].tool_choice == "none"
    script(worker, say_calls(call("kit__greet", {}), call("kit__greet", {}, index=1)), TEXT)
    response = ask(chat_api, max_tool_calls=1)
    assert [item["status"] for item in response["output"][1:]] == ["completed", "failed", "completed"]
    assert worker.generates[-1].tool_choice == "none"
    script(worker, say_calls(call("kit__greet", {})), TEXT)
    ask(chat_api, max_output_tokens=10)
    assert [message.sampling.max_tokens for message in worker.generates[-2:]] == [10, 8]
    response = ask(chat_api, max_output_tokens=3)
    assert worker.generates[-1].sampling.max_tokens == 3


def test_tool_choice_names_servers_and_their_tools(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer
) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    ask(chat_api, tool_choice={"type": "mcp", "server_label": "kit", "name": "add"})
    first, second = worker.generates
    assert first.tool_choice == {"type": "function", "function": {"name": "kit__add"}}
    assert second.tool_choice == "auto"
    script(worker, TEXT)
    ask(chat_api, tool_choice="required")
    assert worker.generates[-1].tool_choice == "required"
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "mcp", "server_label": "kit", "name": "add"}],
    }
    ask(chat_api, tool_choice=allowed)
    assert [tool["function"]["name"] for tool in worker.generates[-1].tools or []] == ["kit__add"]
    named = {"type": "mcp", "server_label": "kit", "name": "nothing"}
    assert ask(chat_api, status=400, tool_choice=named)["param"] == "tool_choice"


def test_background_responses_call_tools_too(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    queued = ask(chat_api, background=True)
    with chat_api.client() as client:

        def is_done() -> Any:
            response = client.get(f"/v1/responses/{queued['id']}").json()
            return response if response["status"] == "completed" else None

        response = wait_until(is_done)
    assert list_kinds(response) == ["mcp_list_tools", "mcp_call", "message"]
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    body = {"model": "scripted", "input": "Hi", "tools": [FREE], "stream": True, "background": True}
    events = check_events(chat_api.post("/v1/responses", body).text)
    assert list_kinds(events[-1]["response"]) == ["mcp_list_tools", "mcp_call", "message"]


def test_leaving_cancels_the_call_at_its_server(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer, tools: RunningServer
) -> None:
    script(worker, say_calls(call("kit__wait", {})), TEXT)
    body = {"model": "scripted", "input": "Hi", "tools": [FREE], "stream": True}
    with chat_api.connect("/v1/responses", json.dumps(body).encode()):
        assert tools.tools.slow_started.wait(60)
    assert tools.tools.slow_cancelled.wait(60)
    wait_for_record(tool="wait", status=CallStatus.CANCELLED)
    wait_for_settled_rows(1)


def test_a_slow_tool_is_an_error_that_the_model_reads(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer, tools: RunningServer
) -> None:
    registered.timeout_s = 0.5
    registered.save()
    script(worker, say_calls(call("kit__wait", {})), TEXT)
    response = ask(chat_api)
    assert response["status"] == "completed"
    assert "within 0.5 seconds" in response["output"][1]["error"]["message"]
    if tools.tools.slow_started.is_set():  # a busy machine may not even have connected by then
        assert tools.tools.slow_cancelled.wait(60)
    assert wait_for_record(request_id=response["id"]).status == CallStatus.TIMEOUT


@pytest.mark.parametrize("arguments", ["{", "[1]", '"x"', "7"])
def test_arguments_that_are_no_object_are_not_sent(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer, arguments: str
) -> None:
    script(worker, say_calls(call("kit__greet", arguments)), TEXT)
    assert "not a JSON object" in ask(chat_api)["output"][1]["error"]["message"]


def test_the_openai_client_reads_it(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    with openai.OpenAI(base_url=f"{chat_api.url}/v1", api_key=chat_api.secret) as client:
        response = client.responses.create(model="scripted", input="1 + 2?", tools=[FREE])  # type: ignore[list-item]
        script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
        with client.responses.stream(model="scripted", input="1 + 2?", tools=[FREE]) as stream:  # type: ignore[list-item]
            final = stream.get_final_response()
    assert response.output_text == final.output_text == "It is 3."
    assert [item.type for item in final.output] == ["mcp_list_tools", "mcp_call", "message"]
