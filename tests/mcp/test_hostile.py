"""Servers that mean harm: huge, endless, leading elsewhere, or speaking to the model behind the user's back."""

from typing import Any

import pytest

from apps.mcp.models import McpServer, ToolCallRecord
from tests.api.conftest import Api, wait_for_settled_rows
from tests.factories import make_team
from tests.mcp.conftest import call, register, say_calls, script, wait_for_record
from tests.mcp_servers import INJECTION, RunningServer
from tests.scripted_worker import Answer, ScriptedWorker

TEXT = Answer.of("Done.")


def ask(api: Api, status: int = 200, **tool: Any) -> dict[str, Any]:
    free = {"type": "mcp", "server_label": "kit", "require_approval": "never", **tool}
    response = api.post("/v1/responses", {"model": "scripted", "input": "Hi", "tools": [free]})
    assert response.status_code == status, response.text
    return response.json()


def test_long_results_are_cut(chat_api: Api, worker: ScriptedWorker, registered: McpServer, settings: Any) -> None:
    settings.MCP_MAX_RESULT_CHARS = 1000
    script(worker, say_calls(call("kit__flood", {"num_chars": 100_000})), TEXT)
    output = ask(chat_api)["output"][1]["output"]
    assert len(output) < 1100
    assert output.endswith("[cut here: the result has more than 1000 characters]")
    assert (worker.generates[-1].messages or [])[-1]["content"] == output


def test_a_flood_is_left(chat_api: Api, worker: ScriptedWorker, registered: McpServer, settings: Any) -> None:
    settings.MCP_MAX_BYTES = 100_000
    script(worker, say_calls(call("kit__flood", {"num_chars": 5_000_000})), TEXT)
    response = ask(chat_api)
    assert response["status"] == "completed"
    assert response["output"][1]["status"] == "failed"


def test_an_endless_stream_is_left(chat_api: Api, worker: ScriptedWorker, tools: RunningServer, settings: Any) -> None:
    settings.MCP_MAX_BYTES = 1_000_000
    settings.MCP_CALL_TIMEOUT_S = 60.0
    error = ask(chat_api, 424, server_url=tools.url("/endless"))["error"]
    assert "more than 1000000 bytes" in error["message"]
    assert not worker.generates


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254"])
def test_nothing_leads_to_a_private_address(chat_api: Api, tools: RunningServer, settings: Any, host: str) -> None:
    settings.MCP_PRIVATE_HOSTS = []
    status = 424 if host == "localhost" else 400  # a name is looked up when it is connected to
    error = ask(chat_api, status, server_url=tools.url("/mcp", host))["error"]
    assert "not a public one" in error["message"]
    assert not tools.tools.headers


def test_redirects_stay_with_their_server(chat_api: Api, tools: RunningServer) -> None:
    for target in (tools.url("/mcp", "localhost"), "http://169.254.169.254/latest/meta-data"):
        error = ask(chat_api, 424, server_url=tools.url(f"/redirect?to={target}"))["error"]
        assert "not followed" in error["message"]


def test_private_addresses_are_for_servers_that_may(tools: RunningServer, transactional_db: None) -> None:
    with pytest.raises(AssertionError, match="not a public one"):
        register("kit", url=tools.url(host="localhost"))


def test_a_description_gains_nothing_for_its_server(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer, tools: RunningServer
) -> None:
    """Even a model that obeys it reaches no tool that was not offered, and no other team's."""
    secret = register("team_b", url=tools.url(), may_be_private=True)
    secret.teams.add(make_team("B"))
    obeying = say_calls(call("team_b__greet", {})), say_calls(call("kit__innocent", {"note": "I found nothing."})), TEXT
    script(worker, *obeying)
    response = ask(chat_api)
    offered = [tool["function"] for tool in worker.generates[0].tools or []]
    assert INJECTION in [function["description"] for function in offered]
    assert not any(function["name"].startswith("team_b") for function in offered)
    # It is handed to the client, as a call of any function that the client may have meant.
    assert [item["type"] for item in response["output"]] == ["mcp_list_tools", "function_call"]
    wait_for_settled_rows(1)
    assert not ToolCallRecord.objects.filter(request_id=response["id"]).exists()


def test_tools_that_are_not_enabled_are_not_called(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer
) -> None:
    registered.enabled_tools = ["greet"]
    registered.save()
    script(worker, say_calls(call("kit__add", {"a": 1, "b": 2})), TEXT)
    response = ask(chat_api)
    assert [tool["name"] for tool in response["output"][0]["tools"]] == ["greet"]
    assert response["output"][1]["type"] == "function_call"
    script(worker, say_calls(call("kit__greet", {})), TEXT)
    response = ask(chat_api)
    assert response["output"][1]["output"] == "안녕하세요"
    assert wait_for_record(request_id=response["id"]).tool == "greet"


def test_headers_of_one_server_are_not_told_another(
    chat_api: Api, worker: ScriptedWorker, registered: McpServer, tools: RunningServer
) -> None:
    script(worker, say_calls(call("kit__who", {}), call("other__who", {}, index=1)), TEXT)
    servers = [
        {"type": "mcp", "server_label": "kit", "require_approval": "never"},
        {
            "type": "mcp",
            "server_label": "other",
            "server_url": tools.url(),
            "require_approval": "never",
            "authorization": "for-other",
        },
    ]
    response = chat_api.post("/v1/responses", {"model": "scripted", "input": "Hi", "tools": servers})
    assert response.status_code == 200, response.text
    assert sorted(headers.get("authorization", "") for headers in tools.tools.headers) == ["", "Bearer for-other"]
    assert not any(chat_api.secret in str(headers) for headers in tools.tools.headers)
