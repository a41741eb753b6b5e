"""Tools and the choice among them, in the worker's form. Knows nothing of how a model calls."""

from typing import Any

from apps.anthropic_api.schemas.blocks import MessagesTool, ToolChoice
from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.messages import Tool, convert_tool
from apps.openai_api.schemas.tool_choice import read_tool_choice

Tools = list[dict[str, Any]]
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def read_tools(tools: list[MessagesTool] | None) -> Tools | None:
    """None for no tools. Raises InvalidRequest or UnsupportedParameter naming the tool."""
    return [_read_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)] if tools else None


def read_choice(given: ToolChoice | None, tools: Tools | None) -> tuple[Tools | None, str | dict[str, Any] | None]:
    """The tools to offer and the worker's tool choice. Raises InvalidRequest."""
    if given is None:
        return tools, None
    if given.type != "tool":
        return read_tool_choice(_CHOICES[given.type], tools)
    if given.name is None:
        raise InvalidRequest("'tool_choice.name' is required.", param="tool_choice.name")
    return read_tool_choice({"type": "function", "name": given.name}, tools)


def _read_tool(tool: MessagesTool, path: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        message = f"'{path}': tools of type '{tool.type}' are run or known by Anthropic alone: send a tool of your own."
        raise UnsupportedParameter(message, param=f"{path}.type")
    if tool.input_schema is None:
        raise InvalidRequest(f"'{path}.input_schema' is required.", param=f"{path}.input_schema")
    refused = {
        "defer_loading": bool(tool.defer_loading),
        "input_examples": bool(tool.input_examples),
        "allowed_callers": tool.allowed_callers not in (None, ["direct"]),
    }
    for name, is_given in refused.items():
        if is_given:
            raise UnsupportedParameter(f"'{path}.{name}' is not supported here.", param=f"{path}.{name}")
    flat = Tool(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
    return convert_tool(flat, path)
