"""Servers over every transport, and what is kept of them."""

import os
from pathlib import Path
from typing import Any

from asgiref.sync import async_to_sync

from apps.mcp.access import read_server
from apps.mcp.models import McpServer, Transport
from apps.mcp.services import enable_all_tools, refresh_tools, set_secrets
from apps.mcp.session import ServerSession
from tests.api.conftest import Api, wait_until
from tests.mcp.conftest import call, register, say_calls, script
from tests.mcp_servers import RunningServer, describe_program
from tests.scripted_worker import Answer, ScriptedWorker

TEXT = Answer.of("Done.")


def register_program(folder: Path) -> McpServer:
    command, arguments, env = describe_program()
    made = McpServer(
        name="program", transport=Transport.STDIO, command=command, arguments=arguments, folder=str(folder)
    )
    set_secrets(made, headers=None, env=env)
    made.save()
    assert refresh_tools(server=made), made.error
    enable_all_tools(server=made)
    return made


def ask_tool(api: Api, worker: ScriptedWorker, server: McpServer, tool: str, arguments: dict[str, Any]) -> Any:
    script(worker, say_calls(call(f"{server.name}__{tool}", arguments)), TEXT)
    free = {"type": "mcp", "server_label": server.name, "require_approval": "never"}
    response = api.post("/v1/responses", {"model": "scripted", "input": "Hi", "tools": [free]})
    assert response.status_code == 200, response.text
    return response.json()["output"][1]


def test_the_older_http_transport(chat_api: Api, worker: ScriptedWorker, tools: RunningServer) -> None:
    server = register("older", url=tools.url("/sse"), transport=Transport.SSE, may_be_private=True)
    assert ask_tool(chat_api, worker, server, "add", {"a": 2, "b": 3})["output"] == "5"
    assert "disk is full" in str(ask_tool(chat_api, worker, server, "fail", {})["error"])


def test_a_program_has_its_own_folder_and_environment_and_ends(
    chat_api: Api, worker: ScriptedWorker, tmp_path: Path
) -> None:
    server = register_program(tmp_path)
    assert ask_tool(chat_api, worker, server, "add", {"a": 2, "b": 3})["output"] == "5"
    pid, folder, env = ask_tool(chat_api, worker, server, "where", {})["output"].split(" ", 2)
    assert folder == str(tmp_path)
    assert "TOOL_TOKEN" in env
    assert not any(name in env for name in ("SECRET", "DJANGO", "ATRIUM", "HOME"))
    wait_until(lambda: not is_alive(int(pid)))


def test_a_program_that_is_waited_for_ends_with_the_call(tmp_path: Path, transactional_db: None) -> None:
    server = register_program(tmp_path)
    server.timeout_s = 0.5
    server.save()

    spec = read_server(server)

    async def wait() -> str:
        session = ServerSession(spec)
        try:
            result = await session.call("wait", {})
            return str((result.error or {})["message"])
        finally:
            await session.close()

    assert "within 0.5 seconds" in async_to_sync(wait)()


def test_a_program_that_is_not_there(transactional_db: None) -> None:
    server = McpServer.objects.create(name="none", transport=Transport.STDIO, command="/no/such/program")
    assert not refresh_tools(server=server)
    assert server.error == "The program cannot be started."


def test_headers_are_kept_encrypted_and_sent(chat_api: Api, worker: ScriptedWorker, tools: RunningServer) -> None:
    server = register("kit", url=tools.url(), may_be_private=True)
    set_secrets(server, headers={"Authorization": "Bearer of-the-server"}, env=None)
    server.save()
    assert "of-the-server" not in McpServer.objects.get().encrypted_headers
    assert ask_tool(chat_api, worker, server, "who", {})["output"] == "seen"
    assert tools.tools.headers[-1]["authorization"] == "Bearer of-the-server"


def test_a_tool_that_changed_is_enabled_no_more(tools: RunningServer, transactional_db: None) -> None:
    server = register("kit", url=tools.url(), may_be_private=True)
    (changed,) = [tool for tool in server.tools if tool["name"] == "add"]
    changed["description"] = "Adds, as it was when somebody looked at it."
    server.save()
    assert refresh_tools(server=server)
    assert "greet" in server.enabled_tools
    assert "add" not in server.enabled_tools


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
