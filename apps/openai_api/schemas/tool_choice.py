"""The field `tool_choice`: which of the offered tools the model may or must call.

https://platform.openai.com/docs/api-reference/chat/create, also in the flat form of the Responses API.
"""

from typing import Any

from apps.core.errors import InvalidRequest, UnsupportedParameter

Tools = list[dict[str, Any]]
ToolChoice = str | dict[str, Any]
_PARAM = "tool_choice"


def read_tool_choice(given: ToolChoice | None, tools: Tools | None) -> tuple[Tools | None, ToolChoice | None]:
    """The tools to offer and the worker's tool choice: "auto", "none", "required" or a named function.

    Raises InvalidRequest or UnsupportedParameter. Without tools a choice that enforces nothing means nothing.
    """
    match given:
        case None | "auto" | "none":
            return tools, given if tools else None
        case "required":
            return _need_tools(tools), given
        case {"type": "function"}:
            name = _read_name(given)
            _pick({name}, tools)
            return tools, {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", **rest}:
            return _read_allowed(rest.get("allowed_tools", rest), tools)
        case dict():
            raise UnsupportedParameter(f"'{_PARAM}' of type {given.get('type')!r} is not supported here.", param=_PARAM)
    raise InvalidRequest(f"'{_PARAM}' cannot be {given!r}.", param=_PARAM)


def translate_choice(given: ToolChoice | None) -> ToolChoice | None:
    """Anthropic's spelling in OpenAI's: clients that send its tools to chat completions send this too.

    Raises UnsupportedParameter. https://docs.anthropic.com/en/api/messages#body-tool-choice
    """
    if isinstance(given, dict) and given.get("disable_parallel_tool_use"):
        message = f"'{_PARAM}.disable_parallel_tool_use': send 'parallel_tool_calls'."
        raise UnsupportedParameter(message, param=f"{_PARAM}.disable_parallel_tool_use")
    match given:
        case {"type": "auto" | "none" as kind}:
            return str(kind)
        case {"type": "any"}:
            return "required"
        case {"type": "tool", "name": name}:
            return {"type": "function", "function": {"name": name}}
    return given


def _read_allowed(allowed: Any, tools: Tools | None) -> tuple[Tools, str]:
    """OpenAI's subset of the tools: the others are not offered."""
    mode, listed = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        raise InvalidRequest(f"'{_PARAM}.allowed_tools' needs a 'mode' and a list of 'tools'.", param=_PARAM)
    return _pick({_read_name(tool) for tool in listed}, tools), mode


def _pick(names: set[str], tools: Tools | None) -> Tools:
    picked = [tool for tool in _need_tools(tools) if tool["function"]["name"] in names]
    if missing := names - {tool["function"]["name"] for tool in picked}:
        raise InvalidRequest(f"'{_PARAM}' names the function '{min(missing)}', which 'tools' lacks.", param=_PARAM)
    return picked


def _need_tools(tools: Tools | None) -> Tools:
    if not tools:
        raise InvalidRequest(f"'{_PARAM}' needs 'tools'.", param=_PARAM)
    return tools


def _read_name(choice: Any) -> str:
    """{"type": "function", "function": {"name": …}}, or with the name beside the type."""
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            return name
    raise InvalidRequest(f"'{_PARAM}' names no function.", param=_PARAM)
