"""Bodies in the shape of the Responses API that arrive at chat completions: `input` and `instructions`.

Cursor sends them there for some models. They mean the same as messages, so they are read as messages.
"""

from typing import Any

from msgspec import Struct

from apps.core.errors import UnsupportedParameter
from apps.openai_api.schemas.messages import CalledFunction, Message, Part, ToolCall


class InputItem(Struct, frozen=True):
    """A message, a function call of the assistant's, or a function's output."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


def convert_input(given: str | list[InputItem], instructions: str | None) -> list[Message]:
    """The same conversation as messages. Raises UnsupportedParameter for an item of another kind."""
    items = [InputItem(role="user", content=given)] if isinstance(given, str) else given
    messages = [] if instructions is None else [Message(role="system", content=instructions)]
    return messages + [_convert_item(item, index) for index, item in enumerate(items)]


def _convert_item(item: InputItem, index: int) -> Message:
    match item:
        case InputItem(type="function_call", name=str(name)):
            call = ToolCall(CalledFunction(name, item.arguments or "{}"), id=item.call_id)
            return Message(role="assistant", tool_calls=[call])
        case InputItem(type="function_call_output"):
            return Message(role="tool", content=item.output or "", tool_call_id=item.call_id)
        case InputItem(type="message", role="system" | "developer" | "user" | "assistant"):
            role: Any = item.role
            return Message(role=role, content=item.content)
    raise UnsupportedParameter(f"'input[{index}]' of type '{item.type}' is not supported.", param=f"input[{index}]")
