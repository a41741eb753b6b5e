"""A connection to a server of tools by the official SDK. Slow to import: `session.py` does it in a thread, once.

https://github.com/modelcontextprotocol/python-sdk
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
from django.conf import settings
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import McpHttpClientFactory
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult

from apps.core.fetch import FetchRules
from apps.mcp.checked_http import RESERVED_HEADERS, make_client
from apps.mcp.servers import MAX_TOOLS, HttpTarget, ServerSpec, StdioTarget, ToolSpec
from apps.mcp.stdio import run_program

__all__ = ["Client", "MCPError", "call_tool", "connect", "describe_failure", "list_tools"]


@asynccontextmanager
async def connect(spec: ServerSpec, refusals: list[str]) -> AsyncGenerator[Client, None]:
    """A session with the server. To be entered and left by one task. `refusals`: see `make_client`."""
    async with Client(_open(spec, refusals), cache=None, mode="auto") as client:
        yield client


async def list_tools(client: Client) -> list[ToolSpec]:
    """The first `MAX_TOOLS`."""
    tools: list[ToolSpec] = []
    cursor: str | None = None
    while len(tools) < MAX_TOOLS:
        page = await client.list_tools(cursor=cursor)
        tools += [_read_tool(tool.model_dump(mode="json", by_alias=True, exclude_none=True)) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor or not page.tools:
            break
    return tools[:MAX_TOOLS]


async def call_tool(client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result as the protocol writes it. Raises MCPError, and whatever a server's nonsense comes to.

    Not by the SDK's own `call_tool`: it checks results against the server's schema, whose patterns may take forever
    and whose references it would fetch, from wherever they point to.
    """
    request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
    result = await client.session.send_request(request, CallToolResult)
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


def describe_failure(error: BaseException) -> str:
    """A sentence for the caller: the innermost cause that says something."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, httpx2.HTTPStatusError):
        return f"The server answered with status {error.response.status_code}."
    if isinstance(error, FileNotFoundError | PermissionError):
        return "The program cannot be started."
    if isinstance(error, httpx2.TransportError | MCPError):
        return str(error) or "The server cannot be reached."
    return "The server does not speak the protocol."


@asynccontextmanager
async def _open(spec: ServerSpec, refusals: list[str]) -> AsyncGenerator[Any, None]:
    target = spec.target
    if isinstance(target, StdioTarget):
        async with run_program(target, settings.MCP_MAX_BYTES) as streams:
            yield streams
        return
    # The model may take its time between two calls: a call's own limit is the session's to keep.
    client = await asyncio.to_thread(_make_client, target, spec.timeout_s + settings.MCP_LOOP_TIMEOUT_S, refusals)
    if target.transport == "sse":
        factory = cast(McpHttpClientFactory, lambda **_options: client)
        async with sse_client(target.url, httpx_client_factory=factory) as streams:
            yield streams
    else:
        size = settings.MCP_MAX_BYTES  # a picture is one event
        async with client, streamable_http_client(target.url, http_client=client, max_sse_event_size=size) as streams:
            yield streams


def _make_client(target: HttpTarget, read_timeout_s: float, refusals: list[str]) -> httpx2.AsyncClient:
    private = set(settings.MCP_PRIVATE_HOSTS)
    if target.may_be_private:
        private.add(httpx2.URL(target.url).host.lower())
    rules = FetchRules(settings.MCP_MAX_BYTES, read_timeout_s, private_hosts=frozenset(private))
    headers = {name: value for name, value in target.headers.items() if name.lower() not in RESERVED_HEADERS}
    return make_client(target.url, headers, rules, read_timeout_s, refusals)


def _read_tool(tool: dict[str, Any]) -> ToolSpec:
    return ToolSpec(
        name=str(tool["name"]),
        description=str(tool.get("description") or tool.get("title") or ""),
        input_schema=tool["inputSchema"],
        annotations=tool.get("annotations"),
    )
