"""The tools of the Responses API: functions in the flat form and custom tools, alone or in namespaces, as Codex sends.

A model knows a function of a namespace by one name, such as `mcp__files__read`; calls of it leave with both names.
"""

from typing import Any, NamedTuple

from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.custom_tools import InputFormat, ToolOrigin, convert_custom, describe_format
from apps.openai_api.schemas.mcp_tools import (
    AllowedTools,
    NamedServer,
    RequiredApproval,
    describe_server,
    read_servers,
)
from apps.openai_api.schemas.messages import Tool, convert_tool
from apps.openai_api.schemas.responses_shape import join_name


class CallableTool(Tool, frozen=True):
    """A function or a custom tool."""

    format: InputFormat | None = None
    defer_loading: bool | None = None


class ResponsesTool(CallableTool, frozen=True):
    """One of these, a namespace with `tools` of its own, a server of tools, or a search in the web."""

    tools: list[CallableTool] | None = None
    external_web_access: bool | None = None
    # of type "mcp"
    server_label: str | None = None
    server_url: str | None = None
    connector_id: str | None = None
    server_description: str | None = None
    tunnel_id: str | None = None
    allowed_tools: AllowedTools | None = None
    require_approval: RequiredApproval | None = None
    headers: dict[str, str] | None = None
    authorization: str | None = None

    @property
    def finds_nothing(self) -> bool:
        """A search that may not touch the web: there is nothing here that it could search."""
        return self.type in ("web_search", "web_search_preview") and self.external_web_access is False


class CalledName(NamedTuple):
    """What a tool is called in a call."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


class OfferedTools(NamedTuple):
    """The functions as the worker gets them, and what is to be said of them."""

    functions: list[dict[str, Any]] | None
    names: dict[str, CalledName]  # by the name that the model knows
    origins: list[ToolOrigin]  # of each function
    echo: list[dict[str, Any]]  # as the answer repeats them
    servers: list[NamedServer] = []  # of tools, which the model is offered too


def read_tools(tools: list[ResponsesTool] | None) -> OfferedTools:
    """Raises InvalidRequest or UnsupportedParameter with the path of the tool."""
    functions: list[dict[str, Any]] = []
    names: dict[str, CalledName] = {}
    origins: list[ToolOrigin] = []
    offered = [tool for tool in tools or [] if not tool.finds_nothing]
    for path, tool, namespace in _flatten(tools or []):
        is_custom = tool.type == "custom" and tool.input_schema is None
        grammar = f"{path}.format"
        if is_custom:
            function = convert_custom(tool.name, tool.description, tool.format, path=path, grammar=grammar)
        else:
            function = convert_tool(tool, path)
        called = CalledName(function["function"]["name"], namespace, is_custom)
        name = function["function"]["name"] = join_name(namespace, called.name)
        if name in names:
            raise InvalidRequest(f"'{path}': another tool has the name '{name}'.", param=f"{path}.name")
        functions.append(function)
        names[name] = called
        origins.append(ToolOrigin(path, f"{grammar}.definition" if is_custom else None))
    return OfferedTools(functions or None, names, origins, [_describe(tool) for tool in offered], read_servers(tools))


def check_choice(choice: str | dict[str, Any] | None, names: dict[str, CalledName]) -> None:
    """Raises InvalidRequest for a function that is chosen as a custom tool, or the other way round."""
    for tool in _list_chosen(choice):
        namespace = tool.get("namespace")
        called = names.get(join_name(namespace if isinstance(namespace, str) else None, str(tool.get("name"))))
        if called is not None and called.is_custom != (tool.get("type") == "custom"):
            kind = "custom" if called.is_custom else "function"
            raise InvalidRequest(f"'tool_choice': '{called.name}' is of type \"{kind}\".", param="tool_choice")


def flatten_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """A tool choice in the flat form, also where it came in that of chat completions."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "allowed_tools" and isinstance(allowed := choice.get("allowed_tools", choice), dict):
        tools = allowed.get("tools")
        flat = [flatten_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": kind, "mode": allowed.get("mode"), "tools": flat}
    if kind in ("function", "custom") and isinstance(function := choice.get(kind), dict):
        return {"type": kind, "name": function.get("name")}
    return choice


def join_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """A tool choice whose tools are functions that are called by the one name."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "custom":
        choice = {**choice, "type": "function"}
    if isinstance(tools := choice.get("tools"), list):
        return {**choice, "tools": [join_choice(tool) for tool in tools]}
    name, namespace = choice.get("name"), choice.get("namespace")
    if isinstance(name, str) and isinstance(namespace, str):
        return {**choice, "name": join_name(namespace, name)}
    return choice


def _list_chosen(choice: str | dict[str, Any] | None) -> list[dict[str, Any]]:
    if not isinstance(choice, dict):
        return []
    tools = choice.get("tools", [choice])
    return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []


def _flatten(tools: list[ResponsesTool]) -> list[tuple[str, CallableTool, str | None]]:
    flat: list[tuple[str, CallableTool, str | None]] = []
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if tool.finds_nothing or tool.type == "mcp":
            continue
        if tool.type != "namespace":
            flat.append((path, tool, None))
        elif not tool.name or not tool.tools:
            raise InvalidRequest(f"'{path}': a namespace needs a 'name' and 'tools'.", param=f"{path}.tools")
        else:
            flat += [(f"{path}.tools[{inner}]", member, tool.name) for inner, member in enumerate(tool.tools)]
    for path, member, _ in flat:
        if member.defer_loading:
            raise UnsupportedParameter(f"'{path}.defer_loading' is not supported.", param=f"{path}.defer_loading")
    return flat


def _describe(tool: ResponsesTool) -> dict[str, Any]:
    if tool.type == "mcp":
        return describe_server(tool)
    if tool.type != "namespace":
        return _describe_callable(tool)
    members = [_describe_callable(member) for member in tool.tools or []]
    return {"type": "namespace", "name": tool.name, "description": tool.description, "tools": members}


def _describe_callable(tool: CallableTool) -> dict[str, Any]:
    if tool.type != "custom" or tool.input_schema is not None:
        return _describe_function(tool)
    named = {"type": "custom", "name": tool.name, "description": tool.description}
    return {**named, "format": describe_format(tool.format)}


def _describe_function(tool: Tool) -> dict[str, Any]:
    """The flat form, also of a tool that came in the nested one."""
    function = tool.function
    described: dict[str, Any] = {"type": "function"}
    for name in ("name", "description", "parameters"):
        described[name] = getattr(function or tool, name)
    described["strict"] = bool((function or tool).strict)
    return described
