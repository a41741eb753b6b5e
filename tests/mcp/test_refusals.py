"""What /v1/responses refuses of tools of type `mcp`, and what fails before the model is asked."""

from typing import Any

import httpx
import pytest

from apps.mcp.models import McpServer
from tests.api.conftest import Api
from tests.factories import make_team
from tests.mcp.conftest import FREE, ask
from tests.mcp.events import check_events
from tests.mcp_servers import RunningServer
from tests.scripted_worker import ScriptedWorker


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"server_label": None}, "server_label"),
        ({"server_label": "a b"}, "server_label"),
        ({"server_label": "unknown"}, "server_label"),
        ({"connector_id": "connector_gmail"}, "connector_id"),
        ({"server_url": "ftp://example.com"}, "server_url"),
        ({"server_url": "http://user:pw@example.com"}, "server_url"),
        ({"server_url": "http://10.0.0.1/mcp"}, "server_url"),
        ({"server_url": "http://[::1"}, "server_url"),
        ({"server_url": "https://example.com", "connector_id": "kit"}, "connector_id"),
        ({"tunnel_id": "x"}, "tunnel_id"),
        ({"defer_loading": True}, "defer_loading"),
        ({"headers": {"a b": "c"}}, "headers"),
        ({"headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"headers": {"Authorization": "x"}, "authorization": "y"}, "authorization"),
        ({"allowed_tools": {"names": []}}, "allowed_tools"),
        ({"require_approval": "sometimes"}, "require_approval"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_is_refused_by_name(
    chat_api: Api, registered: McpServer, tool: dict[str, Any], param: str
) -> None:
    error = ask(chat_api, FREE | tool, status=400)
    assert error["param"].startswith(f"tools[0].{param}")


def test_labels_are_unique_and_servers_few(chat_api: Api, registered: McpServer) -> None:
    assert ask(chat_api, status=400, tools=[FREE, FREE])["param"] == "tools[1].server_label"
    many = [FREE | {"server_label": f"kit{index}"} for index in range(17)]
    assert ask(chat_api, status=400, tools=many)["param"] == "tools"


def test_servers_of_other_teams_do_not_exist(chat_api: Api, registered: McpServer) -> None:
    registered.teams.add(make_team("Others"))
    assert "no MCP server" in ask(chat_api, status=400)["message"]
    registered.teams.clear()
    registered.enabled = False
    registered.save()
    assert "no MCP server" in ask(chat_api, status=400)["message"]


def test_urls_can_be_switched_off(chat_api: Api, tools: RunningServer, settings: Any) -> None:
    settings.MCP_URLS = False
    error = ask(chat_api, FREE | {"server_url": tools.url()}, status=400)
    assert (error["param"], error["code"]) == ("tools[0].server_url", "unsupported_parameter")


def test_a_server_that_lists_nothing_fails_the_response(
    chat_api: Api, worker: ScriptedWorker, tools: RunningServer
) -> None:
    tool = FREE | {"server_url": tools.url("/nonsense")}
    error = ask(chat_api, tool, status=424)
    assert (error["type"], error["param"]) == ("external_connector_error", "tools")
    body = {"model": "scripted", "input": "Hi", "tools": [tool], "stream": True}
    events = check_events(chat_api.post("/v1/responses", body).text)
    assert [event["type"] for event in events][-3:] == [
        "response.mcp_list_tools.failed",
        "response.output_item.done",
        "response.failed",
    ]
    assert events[-1]["response"]["output"][0]["error"]
    assert not worker.generates


def test_unknown_models_are_found_out_before_a_server_is_asked(chat_api: Api, registered: McpServer) -> None:
    body = {"model": "nothing", "input": "Hi", "tools": [FREE], "stream": True}
    response: httpx.Response = chat_api.post("/v1/responses", body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
