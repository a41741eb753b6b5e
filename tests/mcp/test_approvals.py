"""Calls that somebody has to allow first: asked in one response, answered in the next."""

import json
from typing import Any

import pytest

from apps.mcp.models import McpServer
from tests.api.conftest import Api
from tests.factories import make_key
from tests.mcp.conftest import call, say_calls, script
from tests.mcp.events import check_events, check_response
from tests.scripted_worker import Answer, ScriptedWorker

KIT = {"type": "mcp", "server_label": "kit"}
BODY = {"model": "scripted", "input": "1 + 2?", "tools": [KIT]}
TEXT = Answer.of("Done.")


def ask(api: Api, status: int = 200, **fields: Any) -> dict[str, Any]:
    response = api.post("/v1/responses", BODY | fields)
    assert response.status_code == status, response.text
    return check_response(response.json()) if status == 200 else response.json()["error"]


@pytest.fixture
def asked(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> dict[str, Any]:
    """A response that asks."""
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    return ask(chat_api)


def decide(asked: dict[str, Any], approve: bool, **fields: Any) -> dict[str, Any]:
    request = asked["output"][-1]
    return {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve, **fields}


def test_a_call_that_is_allowed_is_made(chat_api: Api, worker: ScriptedWorker, asked: dict[str, Any]) -> None:
    assert (asked["status"], [item["type"] for item in asked["output"]]) == (
        "completed",
        ["mcp_list_tools", "mcp_approval_request"],
    )
    request = asked["output"][1]
    assert (request["name"], request["server_label"]) == ("add", "kit")
    assert json.loads(request["arguments"]) == {"a": 1, "b": 2}
    response = ask(chat_api, input=[decide(asked, True)], previous_response_id=asked["id"])
    called, said = response["output"]
    assert (called["type"], called["output"], called["approval_request_id"]) == ("mcp_call", "3", request["id"])
    assert said["content"][0]["text"] == "Done."
    messages = worker.generates[-1].messages or []
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    later = ask(chat_api, input="And?", previous_response_id=response["id"])
    assert [message["role"] for message in worker.generates[-1].messages or []] == [
        *("user", "assistant", "tool", "assistant", "user"),
    ]
    again = ask(chat_api, 400, input=[decide(asked, True)], previous_response_id=later["id"])
    assert again["param"] == "input[0].approval_request_id"


def test_events_of_asking_and_of_calling(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2}), call("kit__greet", {}, index=1)), TEXT)
    asked = check_events(chat_api.post("/v1/responses", BODY | {"stream": True}).text)[-1]["response"]
    assert [item["type"] for item in asked["output"][1:]] == ["mcp_approval_request"] * 2
    given = [decide(asked, True), decide({"output": asked["output"][:2]}, False)]
    body = BODY | {"stream": True, "input": given, "previous_response_id": asked["id"]}
    events = check_events(chat_api.post("/v1/responses", body).text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[2:8] == [
        *("output_item.added", "mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done"),
        *("mcp_call.completed", "output_item.done"),
    ]
    contents = [message["content"] for message in worker.generates[-1].messages or [] if message["role"] == "tool"]
    assert contents == ["Error: the user did not allow this call.", "안녕하세요"]


def test_a_refusal_is_told_to_the_model(chat_api: Api, worker: ScriptedWorker, asked: dict[str, Any]) -> None:
    given = [decide(asked, False, reason="too dear")]
    response = ask(chat_api, input=given, previous_response_id=asked["id"])
    assert [item["type"] for item in response["output"]] == ["message"]
    (told,) = [message for message in worker.generates[-1].messages or [] if message["role"] == "tool"]
    assert told["content"] == "Error: the user did not allow this call because: too dear"


def test_the_conversation_may_be_sent_instead_of_kept(
    chat_api: Api, worker: ScriptedWorker, asked: dict[str, Any]
) -> None:
    question = {"role": "user", "content": "1 + 2?"}
    response = ask(chat_api, input=[question, *asked["output"], decide(asked, True)], store=False)
    assert response["output"][0]["output"] == "3"


def test_filters_say_which_calls_ask(chat_api: Api, worker: ScriptedWorker, registered: McpServer) -> None:
    for approval, kind in (
        ({"never": {"tool_names": ["add"]}}, "mcp_call"),
        ({"never": {"read_only": True}}, "mcp_call"),
        ({"never": {"tool_names": ["greet"]}}, "mcp_approval_request"),
        ({"always": {"tool_names": ["add"]}, "never": {"read_only": True}}, "mcp_approval_request"),
        ("always", "mcp_approval_request"),
    ):
        script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
        response = ask(chat_api, tools=[KIT | {"require_approval": approval}])
        assert response["output"][1]["type"] == kind, approval


def test_allowed_calls_need_their_server_and_tool(chat_api: Api, asked: dict[str, Any]) -> None:
    given = {"input": [decide(asked, True)], "previous_response_id": asked["id"]}
    assert ask(chat_api, 400, **given, tools=[])["param"] == "tools"
    response = ask(chat_api, **given, tools=[KIT | {"allowed_tools": ["greet"]}])
    assert response["output"][0]["error"]["message"] == "There is no such tool any more."


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"approval_request_id": "mcpr_unknown", "approve": True}, "input[0].approval_request_id"),
        ({"approve": True}, "input[0].approval_request_id"),
        ({"approval_request_id": None, "approve": False}, "input[0].approval_request_id"),
    ],
    ids=["unknown", "missing", "null"],
)
def test_approvals_of_nothing_are_refused(
    chat_api: Api, registered: McpServer, item: dict[str, Any], param: str
) -> None:
    assert ask(chat_api, 400, input=[{"type": "mcp_approval_response", **item}])["param"] == param


def test_nobody_allows_the_calls_of_others(chat_api: Api, asked: dict[str, Any]) -> None:
    other = Api(chat_api.url, make_key().secret)
    error = ask(other, 400, input=[decide(asked, True)], previous_response_id=asked["id"])
    assert error["code"] == "previous_response_not_found"
