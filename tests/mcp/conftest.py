"""Servers of tools beside the application and its scripted model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from apps.mcp.models import McpServer, ToolCallRecord, Transport
from apps.mcp.services import enable_all_tools, refresh_tools
from gpu_worker.protocol import Delta, Generate, ToolCallDelta
from tests.api.conftest import Api, api, chat_api, server, wait_until
from tests.mcp.events import check_response
from tests.mcp_servers import RunningServer, run_server
from tests.scripted_fixtures import scripted_model, worker
from tests.scripted_worker import Answer, ScriptedWorker

FREE = {"type": "mcp", "server_label": "kit", "require_approval": "never"}
__all__ = ["Api", "api", "chat_api", "scripted_model", "server", "worker"]  # fixtures


@pytest.fixture(scope="session")
def running_tools() -> Iterator[RunningServer]:
    with run_server() as running:
        yield running


@pytest.fixture
def tools(running_tools: RunningServer, settings: Any) -> RunningServer:
    """The server, which requests may name by its URL."""
    settings.MCP_PRIVATE_HOSTS = ["127.0.0.1"]
    running_tools.tools.headers.clear()
    running_tools.tools.slow_started.clear()
    running_tools.tools.slow_cancelled.clear()
    return running_tools


@pytest.fixture
def registered(tools: RunningServer, db: None) -> McpServer:
    """The same server as administrators register it: as `kit`, with all its tools."""
    return register("kit", url=tools.url(), may_be_private=True)


def register(name: str, **fields: Any) -> McpServer:
    """A server that has told its tools."""
    made = McpServer.objects.create(name=name, **{"transport": Transport.HTTP, **fields})
    assert refresh_tools(server=made), made.error
    enable_all_tools(server=made)
    return made


def wait_for_record(**fields: Any) -> ToolCallRecord:
    """The record of a call, which is written soon after its end."""
    return wait_until(ToolCallRecord.objects.filter(**fields).first)


def call(name: str, arguments: object, *, index: int = 0, call_id: str = "") -> ToolCallDelta:
    """The model calls a tool."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ToolCallDelta(index, call_id or f"call_{name}_{index}", name, text)


def say_calls(*calls: ToolCallDelta, text: str = "") -> Answer:
    """A round in which the model calls tools, in two pieces each."""
    deltas = [Delta("", text=text)] if text else []
    for made in calls:
        middle = len(made.arguments) // 2
        head = ToolCallDelta(made.index, made.id, made.name, made.arguments[:middle])
        tail = ToolCallDelta(made.index, arguments=made.arguments[middle:])
        deltas += [Delta("", tool_calls=[head]), Delta("", tool_calls=[tail])]
    return Answer(deltas=tuple(deltas), reason="tool_calls")


def script(worker: ScriptedWorker, *answers: Answer) -> None:
    """One answer for each round; the last for all that follow."""
    left = list(answers)

    def answer(message: Generate) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    worker.answer = answer


def ask(api: Api, tool: dict[str, Any] | None = None, status: int = 200, **fields: Any) -> dict[str, Any]:
    """The response, or the error."""
    body = {"model": "scripted", "input": "1 + 2?", "tools": [tool or FREE]} | fields
    response = api.post("/v1/responses", body)
    assert response.status_code == status, response.text
    return check_response(response.json()) if status == 200 else response.json()["error"]
