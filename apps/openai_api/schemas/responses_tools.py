"""The tools of the Responses API: functions in the flat form, alone or in namespaces, as Codex sends them.

A model knows a function of a namespace by one name, such as `mcp__files__read`; calls of it leave with both names.
"""

from typing import Any, NamedTuple

from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.messages import Tool, convert_tool
from apps.openai_api.schemas.responses_shape import join_name


class ResponsesTool(Tool, frozen=True):
    """A function, or a namespace with `tools` of its own."""

    tools: list[Tool] | None = None
    defer_loading: bool | None = None


class CalledName(NamedTuple):
    """What a function is called in a call."""

    name: str
    namespace: str | None = None


class OfferedTools(NamedTuple):
    """The functions as the worker gets them, and what is to be said of them."""

    functions: list[dict[str, Any]] | None
    names: dict[str, CalledName]  # by the name that the model knows
    origins: list[str]  # of each function, the field of the body that it comes from
    echo: list[dict[str, Any]]  # as the answer repeats them


def read_tools(tools: list[ResponsesTool] | None) -> OfferedTools:
    """Raises InvalidRequest or UnsupportedParameter with the path of the tool."""
    functions: list[dict[str, Any]] = []
    names: dict[str, CalledName] = {}
    origins: list[str] = []
    for path, tool, namespace in _flatten(tools or []):
        function = convert_tool(tool, path)
        called = CalledName(function["function"]["name"], namespace)
        name = function["function"]["name"] = join_name(namespace, called.name)
        if name in names:
            raise InvalidRequest(f"'{path}': another tool has the name '{name}'.", param=f"{path}.name")
        functions.append(function)
        names[name] = called
        origins.append(path)
    return OfferedTools(functions or None, names, origins, [_describe(tool) for tool in tools or []])


def flatten_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """A tool choice in the flat form, also where it came in that of chat completions."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "allowed_tools" and isinstance(allowed := choice.get("allowed_tools", choice), dict):
        tools = allowed.get("tools")
        flat = [flatten_choice(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": kind, "mode": allowed.get("mode"), "tools": flat}
    if kind == "function" and isinstance(function := choice.get("function"), dict):
        return {"type": kind, "name": function.get("name")}
    return choice


def join_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """A tool choice whose functions are called by the one name."""
    if not isinstance(choice, dict):
        return choice
    if isinstance(tools := choice.get("tools"), list):
        return {**choice, "tools": [join_choice(tool) for tool in tools]}
    name, namespace = choice.get("name"), choice.get("namespace")
    if isinstance(name, str) and isinstance(namespace, str):
        return {**choice, "name": join_name(namespace, name)}
    return choice


def _flatten(tools: list[ResponsesTool]) -> list[tuple[str, Tool, str | None]]:
    flat: list[tuple[str, Tool, str | None]] = []
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if tool.defer_loading:
            raise UnsupportedParameter(f"'{path}.defer_loading' is not supported.", param=f"{path}.defer_loading")
        if tool.type != "namespace":
            flat.append((path, tool, None))
            continue
        if not tool.name or not tool.tools:
            raise InvalidRequest(f"'{path}': a namespace needs a 'name' and 'tools'.", param=f"{path}.tools")
        flat += [(f"{path}.tools[{inner}]", member, tool.name) for inner, member in enumerate(tool.tools)]
    return flat


def _describe(tool: ResponsesTool) -> dict[str, Any]:
    if tool.type != "namespace":
        return _describe_function(tool)
    members = [_describe_function(member) for member in tool.tools or []]
    return {"type": "namespace", "name": tool.name, "description": tool.description, "tools": members}


def _describe_function(tool: Tool) -> dict[str, Any]:
    """The flat form, also of a tool that came in the nested one."""
    function = tool.function
    described: dict[str, Any] = {"type": "function"}
    for name in ("name", "description", "parameters"):
        described[name] = getattr(function or tool, name)
    described["strict"] = bool((function or tool).strict)
    return described
