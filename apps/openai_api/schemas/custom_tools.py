"""Custom tools: a model writes free text to them, not arguments. Knows no item and no event.

To a model such a tool is a function with one argument, `input`, which every family of models can call.
https://platform.openai.com/docs/guides/function-calling#custom-tools
"""

from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from apps.core.errors import InvalidRequest, ServiceError, UnsupportedParameter
from apps.openai_api.schemas.lark_regex import LarkError, convert_grammar
from apps.openai_api.schemas.messages import CUSTOM_ARGUMENT, Tool, convert_tool
from apps.openai_api.schemas.structure import Pattern


class InputFormat(Struct, frozen=True):
    """What the input looks like."""

    type: Literal["text", "grammar"] = "text"
    syntax: Literal["lark", "regex"] | None = None
    definition: Pattern | None = None


class ToolOrigin(NamedTuple):
    """Where in the body the function is described that a model knows, and of a custom tool where its grammar is."""

    path: str
    grammar: str | None = None

    def rename(self, param: str, function: str) -> str:
        """What the body has for a field of the function, such as `tools[0].parameters`."""
        rest = param.removeprefix(function)
        return self.grammar if self.grammar and rest.startswith(".parameters") else self.path + rest


def rename_tool(error: ServiceError, origins: list[ToolOrigin]) -> bool:
    """Have an error about a function call it as the body does. Returns whether it was about one."""
    for index, origin in enumerate(origins):
        function = f"tools[{index}].function"
        if error.param and error.param.startswith(function):
            named = origin.rename(error.param, function)
            error.message = error.message.replace(error.param, named).replace(function, origin.path)
            error.param = named
            return True
    return False


def convert_custom(
    name: str | None, description: str | None, format_: InputFormat | None, *, path: str, grammar: str
) -> dict[str, Any]:
    """The function that the model knows. `grammar`: where the body has its syntax and definition.

    Raises InvalidRequest or UnsupportedParameter by its path.
    """
    if not name:
        raise InvalidRequest(f"'{path}.name' is required.", param=f"{path}.name")
    parameters = _make_parameters(format_ or InputFormat(), grammar)
    is_strict = format_ is not None and format_.type == "grammar"
    return convert_tool(Tool(name=name, description=description, parameters=parameters, strict=is_strict), path)


def describe_format(format_: InputFormat | None) -> dict[str, Any]:
    """As the answer repeats it."""
    if format_ is None or format_.type == "text":
        return {"type": "text"}
    return {"type": "grammar", "syntax": format_.syntax, "definition": format_.definition}


def make_arguments(text: str) -> str:
    """An input that was given, as the arguments of the function."""
    return msgspec.json.encode({CUSTOM_ARGUMENT: text}).decode()


def _make_parameters(format_: InputFormat, path: str) -> dict[str, Any]:
    argument = {"type": "string"}
    if format_.type == "grammar":
        argument["pattern"] = f"^(?:{_read_pattern(format_, path)})$"
    return {
        "type": "object",
        "properties": {CUSTOM_ARGUMENT: argument},
        "required": [CUSTOM_ARGUMENT],
        "additionalProperties": False,
    }


def _read_pattern(format_: InputFormat, path: str) -> str:
    for name in ("syntax", "definition"):
        if getattr(format_, name) is None:
            raise InvalidRequest(f"'{path}.{name}' is required for a grammar.", param=f"{path}.{name}")
    definition = format_.definition or ""
    if format_.syntax == "regex":
        return definition
    try:
        return convert_grammar(definition)
    except LarkError as error:
        where = f"{path}.definition"
        raise UnsupportedParameter(f"'{where}' cannot be enforced: {error}.", param=where) from None
