"""Servers of tools in a request: tools of type `mcp` of the Responses API, and names of registered ones.

https://platform.openai.com/docs/guides/tools-connectors-mcp. Pure: which servers exist is asked later.
"""

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from msgspec import Struct

from apps.core.errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    from apps.openai_api.schemas.responses_tools import ResponsesTool

MAX_SERVERS = 16  # of one request
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,16384}")


class NamedTools(Struct, frozen=True, forbid_unknown_fields=True):
    """A filter: by name, by what the server says, or both."""

    tool_names: list[str] | None = None
    read_only: bool | None = None


class ApprovalFilters(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tools ask first, and which do not."""

    always: NamedTools | None = None
    never: NamedTools | None = None


AllowedTools = list[str] | NamedTools
RequiredApproval = Literal["always", "never"] | ApprovalFilters


class NamedServer(NamedTuple):
    """A server of tools as a request names it. `url` is None for one that is registered, as `name`."""

    path: str
    label: str
    name: str
    url: str | None
    headers: dict[str, str]
    allowed: AllowedTools | None
    approval: RequiredApproval


def read_servers(tools: "list[ResponsesTool] | None") -> list[NamedServer]:
    """Those of the tools. Raises InvalidRequest or UnsupportedParameter with the path of the tool."""
    servers: list[NamedServer] = []
    for index, tool in enumerate(tools or []):
        if tool.type != "mcp":
            continue
        server = _read_server(tool, f"tools[{index}]")
        if any(server.label == other.label for other in servers):
            param = f"{server.path}.server_label"
            raise InvalidRequest(f"'{param}': another server has the label '{server.label}'.", param=param)
        servers.append(server)
    if len(servers) > MAX_SERVERS:
        raise InvalidRequest(f"'tools' may name {MAX_SERVERS} MCP servers.", param="tools")
    return servers


def describe_server(tool: "ResponsesTool") -> dict[str, Any]:
    """As the answer repeats it: without what is secret."""
    fields = ("server_label", "server_url", "connector_id", "server_description", "allowed_tools", "require_approval")
    return {"type": "mcp", **{name: getattr(tool, name) for name in fields if getattr(tool, name) is not None}}


def _read_server(tool: "ResponsesTool", path: str) -> NamedServer:
    label = tool.server_label
    if label is None or not _LABEL.fullmatch(label):
        message = f"'{path}.server_label' must be a letter, then letters, digits, hyphens or underscores; 48 at most."
        raise InvalidRequest(message, param=f"{path}.server_label")
    if tool.tunnel_id is not None:
        raise UnsupportedParameter(f"'{path}.tunnel_id' is not supported here.", param=f"{path}.tunnel_id")
    if tool.defer_loading:
        raise UnsupportedParameter(f"'{path}.defer_loading' is not supported.", param=f"{path}.defer_loading")
    if tool.server_url is not None and tool.connector_id is not None:
        raise InvalidRequest(f"'{path}': send 'server_url' or 'connector_id'.", param=f"{path}.connector_id")
    return NamedServer(
        path=path,
        label=label,
        name=tool.connector_id or label,
        url=tool.server_url,
        headers=_read_headers(tool, path),
        allowed=tool.allowed_tools,
        approval=tool.require_approval or "always",
    )


def _read_headers(tool: "ResponsesTool", path: str) -> dict[str, str]:
    headers = dict(tool.headers or {})
    if tool.authorization is not None:
        if any(name.lower() == "authorization" for name in headers):
            message = f"'{path}.authorization' is in 'headers' too."
            raise InvalidRequest(message, param=f"{path}.authorization")
        headers["Authorization"] = f"Bearer {tool.authorization}"
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequest(f"'{path}.headers' holds what cannot be a header.", param=f"{path}.headers")
    return headers
