"""The field `tool_choice` where servers of tools are offered: it is read when their tools are known. Pure."""

from typing import Any

from apps.mcp.servers import make_function_name
from apps.openai_api.schemas.tool_choice import ToolChoice, Tools, read_tool_choice


def choose_tools(given: ToolChoice | None, functions: Tools | None) -> tuple[Tools | None, ToolChoice | None]:
    """As `read_tool_choice`, also for tools of type `mcp`. Raises InvalidRequest or UnsupportedParameter."""
    if not isinstance(given, dict):
        return read_tool_choice(given, functions)
    if given.get("type") == "mcp":
        named = _expand(given, functions)
        if given.get("name"):
            return read_tool_choice(named[0], functions)
        return read_tool_choice({"type": "allowed_tools", "mode": "required", "tools": named}, functions)
    if isinstance(tools := given.get("tools"), list):
        given = {**given, "tools": [named for tool in tools for named in _expand(tool, functions)]}
    return read_tool_choice(given, functions)


def _expand(tool: Any, functions: Tools | None) -> list[Any]:
    """The functions that a tool of a choice stands for: all of its server's, where it names none."""
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        return [tool]
    label, name = str(tool.get("server_label")), tool.get("name")
    if isinstance(name, str):
        return [_name(make_function_name(label, name))]
    names = [function["function"]["name"] for function in functions or []]
    return [_name(function) for function in names if function.startswith(f"{label}__")]


def _name(function: str) -> dict[str, Any]:
    return {"type": "function", "name": function}
