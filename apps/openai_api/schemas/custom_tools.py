"""Custom tools of the Responses API: a model writes free text to them, not arguments. Knows no item and no event.

To a model such a tool is a function with one argument, `input`, which every family of models can call.
https://platform.openai.com/docs/guides/function-calling#custom-tools
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.structure import Pattern

ARGUMENT = "input"


class InputFormat(Struct, frozen=True):
    """What the input looks like."""

    type: Literal["text", "grammar"] = "text"
    syntax: Literal["lark", "regex"] | None = None
    definition: Pattern | None = None


def make_parameters(format_: InputFormat | None, path: str) -> dict[str, Any]:
    """The schema of the function that the model knows. Raises InvalidRequest or UnsupportedParameter by its path."""
    argument = {"type": "string"}
    if (pattern := _read_pattern(format_ or InputFormat(), f"{path}.format")) is not None:
        argument["pattern"] = f"^(?:{pattern})$"
    return {"type": "object", "properties": {ARGUMENT: argument}, "required": [ARGUMENT], "additionalProperties": False}


def is_enforced(format_: InputFormat | None) -> bool:
    """Whether more than text is asked for."""
    return format_ is not None and format_.type == "grammar"


def describe_format(format_: InputFormat | None) -> dict[str, Any]:
    """As the answer repeats it."""
    if format_ is None or format_.type == "text":
        return {"type": "text"}
    return {"type": "grammar", "syntax": format_.syntax, "definition": format_.definition}


def make_arguments(text: str) -> str:
    """An input that was given, as the arguments of the function."""
    return msgspec.json.encode({ARGUMENT: text}).decode()


def _read_pattern(format_: InputFormat, path: str) -> str | None:
    if format_.type == "text":
        return None
    for name in ("syntax", "definition"):
        if getattr(format_, name) is None:
            raise InvalidRequest(f"'{path}.{name}' is required for a grammar.", param=f"{path}.{name}")
    if format_.syntax == "lark":
        message = f"'{path}.syntax' can be \"regex\" here: a Lark grammar cannot be enforced within a call."
        raise UnsupportedParameter(message, param=f"{path}.syntax")
    return format_.definition
