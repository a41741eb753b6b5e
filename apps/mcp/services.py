"""What administrators do with servers: ask one for its tools, and keep its secrets. Blocking."""

from collections.abc import Mapping

import msgspec
from asgiref.sync import async_to_sync
from django.utils import timezone

from apps.core.errors import ServiceError
from apps.core.http import encode_json
from apps.core.secrets import SecretLost, decrypt, encrypt
from apps.mcp.access import read_server
from apps.mcp.models import McpServer, Transport
from apps.mcp.servers import HttpTarget, ServerSpec, ToolSpec
from apps.mcp.session import ServerSession, ToolsUnavailable


def refresh_tools(*, server: McpServer) -> bool:
    """Ask the server which tools it has, and write down what it says, or why not. Returns whether it did.

    A tool that is not as it was when it was enabled is enabled no more: somebody has to look at it again.
    """
    try:
        spec = read_server(server)
        tools = async_to_sync(_list_tools)(spec)
    except (ServiceError, ToolsUnavailable) as error:
        server.error = str(error)
    else:
        known = {tool["name"]: tool for tool in server.tools}
        server.tools = msgspec.to_builtins(tools)
        unchanged = {tool["name"] for tool in server.tools if known.get(tool["name"]) == tool}
        server.enabled_tools = [name for name in server.enabled_tools if name in unchanged]
        server.error = ""
    server.checked_at = timezone.now()
    server.save(update_fields=["tools", "enabled_tools", "error", "checked_at"])
    return not server.error


def enable_all_tools(*, server: McpServer) -> None:
    """Those that are known now."""
    server.enabled_tools = [tool["name"] for tool in server.tools]
    server.save(update_fields=["enabled_tools"])


def set_secrets(server: McpServer, *, headers: Mapping[str, str] | None, env: Mapping[str, str] | None) -> None:
    """Encrypt them into the row, which is saved by who calls. None: they stay as they are."""
    if headers is not None:
        server.encrypted_headers = encrypt(encode_json(headers).decode()) if headers else ""
    if env is not None:
        server.encrypted_env = encrypt(encode_json(env).decode()) if env else ""


def forget_moved_secrets(server: McpServer, before: McpServer) -> None:
    """Headers do not follow a server to another address: who may change it need not know them."""
    moved = HttpTarget(server.url).origin != HttpTarget(before.url).origin
    if (moved or server.transport != before.transport) and server.encrypted_headers == before.encrypted_headers:
        server.encrypted_headers = ""
    started_otherwise = (server.command, server.arguments, server.folder) != (
        before.command,
        before.arguments,
        before.folder,
    )
    is_program = Transport.STDIO in (server.transport, before.transport)
    if is_program and started_otherwise and server.encrypted_env == before.encrypted_env:
        server.encrypted_env = ""


def list_secret_names(encrypted: str) -> list[str]:
    """The names of headers or variables, to be shown. Empty where they cannot be read."""
    try:
        text = decrypt(encrypted)
    except SecretLost:
        return []
    return sorted(msgspec.json.decode(text)) if text else []


async def _list_tools(spec: ServerSpec) -> list[ToolSpec]:
    session = ServerSession(spec)
    try:
        return await session.list_tools()
    finally:
        await session.close()
