"""Who may use which server: the one way from a name to a server that is registered. Blocking."""

import msgspec
from django.conf import settings

from apps.accounts.caller import Caller
from apps.core.errors import InternalError, NotFound
from apps.core.secrets import SecretLost, decrypt
from apps.mcp.models import McpServer, Transport
from apps.mcp.servers import HttpTarget, ServerSpec, StdioTarget, ToolSpec
from apps.registry.access import may_use


def find_server(caller: Caller, name: str) -> ServerSpec:
    """Raises NotFound for another team's, exactly as for one that does not exist."""
    server = McpServer.objects.prefetch_related("teams").filter(name=name).first() if name.isprintable() else None
    team_ids = frozenset(team.pk for team in server.teams.all()) if server else frozenset()
    if server is None or not may_use(caller, enabled=server.enabled, team_ids=team_ids):
        raise NotFound(f"There is no MCP server with the name '{name}'.")
    return read_server(server)


def read_server(server: McpServer) -> ServerSpec:
    """The server with its secrets. Raises InternalError where they cannot be read any more."""
    tools = msgspec.convert(server.tools, list[ToolSpec])
    return ServerSpec(
        label=server.name,
        target=_read_target(server),
        timeout_s=server.timeout_s or settings.MCP_CALL_TIMEOUT_S,
        row_id=server.pk,
        tools=tuple(tool for tool in tools if tool.name in server.enabled_tools),
    )


def _read_target(server: McpServer) -> HttpTarget | StdioTarget:
    try:
        if server.transport == Transport.STDIO:
            env = _read_secret(server.encrypted_env)
            return StdioTarget(server.command, tuple(server.arguments), env, server.folder or None)
        headers = _read_secret(server.encrypted_headers)
    except SecretLost as error:
        raise InternalError(f"The secrets of the MCP server '{server.name}' cannot be read.") from error
    is_sse = server.transport == Transport.SSE
    return HttpTarget(server.url, headers, "sse" if is_sse else "http", server.may_be_private)


def _read_secret(encrypted: str) -> dict[str, str]:
    text = decrypt(encrypted)
    return msgspec.json.decode(text, type=dict[str, str]) if text else {}
