"""The tools of a chat completion, and the choice among them: functions, and custom tools that are given text.

https://platform.openai.com/docs/api-reference/chat/create#chat-create-tools. Custom tools also come in the flat form of
the Responses API, which Cursor posts to chat completions.
"""

from typing import Any, Literal, NamedTuple

from msgspec import Struct

from apps.core.errors import InvalidRequest
from apps.openai_api.schemas.custom_tools import InputFormat, ToolOrigin, convert_custom
from apps.openai_api.schemas.messages import Tool, convert_tool
from apps.openai_api.schemas.responses_tools import CalledName, check_choice, flatten_choice, join_choice
from apps.openai_api.schemas.structure import Pattern
from apps.openai_api.schemas.tool_choice import ToolChoice, Tools, read_tool_choice, translate_choice


class CustomGrammar(Struct, frozen=True):
    """The grammar of an input."""

    syntax: Literal["lark", "regex"] | None = None
    definition: Pattern | None = None


class CustomFormat(Struct, frozen=True):
    """What the input looks like."""

    type: Literal["text", "grammar"] = "text"
    grammar: CustomGrammar | None = None


class CustomSpec(Struct, frozen=True):
    """What the model is told of a custom tool."""

    name: str | None = None
    description: str | None = None
    format: CustomFormat | None = None


class ChatTool(Tool, frozen=True):
    """A function in any of its forms, or a custom tool, nested or flat."""

    custom: CustomSpec | None = None
    format: InputFormat | None = None


class ChatTools(NamedTuple):
    """What the worker gets, and what is to be known of it."""

    functions: Tools | None
    choice: ToolChoice | None
    customs: frozenset[str]  # names of the custom ones
    origins: list[ToolOrigin]  # of each function


def read_chat_tools(tools: list[ChatTool] | None, choice: ToolChoice | None) -> ChatTools:
    """Raises InvalidRequest or UnsupportedParameter with the path of the tool, or for the choice."""
    offered: Tools = []
    names: dict[str, CalledName] = {}
    origins: dict[str, ToolOrigin] = {}
    for index, tool in enumerate(tools or []):
        path = f"tools[{index}]"
        is_custom = tool.type == "custom" and tool.input_schema is None
        function, origin = _convert_custom(tool, path) if is_custom else _convert_function(tool, path)
        name = function["function"]["name"]
        if name in names and (is_custom or names[name].is_custom):
            raise InvalidRequest(f"'{path}': another tool has the name '{name}'.", param=f"{origin.path}.name")
        offered.append(function)
        names[name], origins[name] = CalledName(name, is_custom=is_custom), origin
    flat = flatten_choice(translate_choice(choice))
    check_choice(flat, names)
    functions, read = read_tool_choice(join_choice(flat), offered or None)
    return ChatTools(
        functions,
        read,
        customs=frozenset(name for name, called in names.items() if called.is_custom),
        origins=[origins[function["function"]["name"]] for function in functions or []],
    )


def _convert_function(tool: ChatTool, path: str) -> tuple[dict[str, Any], ToolOrigin]:
    return convert_tool(tool, path), ToolOrigin(f"{path}.function")


def _convert_custom(tool: ChatTool, path: str) -> tuple[dict[str, Any], ToolOrigin]:
    if (spec := tool.custom) is None:
        grammar = f"{path}.format"
        function = convert_custom(tool.name, tool.description, tool.format, path=path, grammar=grammar)
        return function, ToolOrigin(path, f"{grammar}.definition")
    path, grammar = f"{path}.custom", f"{path}.custom.format.grammar"
    format_ = spec.format or CustomFormat()
    inner = format_.grammar or CustomGrammar()
    asked = InputFormat(format_.type, inner.syntax, inner.definition)
    function = convert_custom(spec.name, spec.description, asked, path=path, grammar=grammar)
    return function, ToolOrigin(path, f"{grammar}.definition")
