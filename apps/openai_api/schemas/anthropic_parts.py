"""Histories in Anthropic's shape, posted to chat completions as Cursor does at times: calls and their results are parts
of turns there (`tool_use`, `tool_result`, `thinking`) and become the calls and tool messages of a chat.

https://docs.anthropic.com/en/api/messages#body-messages. The Messages API itself is another app's.
"""

import msgspec

from apps.core.errors import InvalidRequest
from apps.openai_api.schemas.messages import CalledFunction, Message, Part, ToolCall
from apps.openai_api.schemas.responses_shape import Conversation

_KINDS = frozenset({"tool_use", "tool_result", "thinking"})
_ERROR = "Error"


def find_conversation(messages: list[Message]) -> Conversation | None:
    """The messages without such parts; None where there are none. Raises InvalidRequest naming the part."""
    if not any(_has_such(message) for message in messages):
        return None
    conversation = Conversation([], [], output=".content", shifts={})
    for index, message in enumerate(messages):
        origin = f"messages[{index}]"
        if not _has_such(message):
            _add(conversation, message, origin)
        elif message.role == "assistant":
            _add(conversation, _read_answer(message, f"{origin}.content"), origin, shift=_count_before_said(message))
        else:
            _add_turn(conversation, message, origin)
    return conversation


def _has_such(message: Message) -> bool:
    return isinstance(message.content, list) and any(part.type in _KINDS for part in message.content)


def _count_before_said(message: Message) -> int:
    parts = message.content if isinstance(message.content, list) else []
    return next((index for index, part in enumerate(parts) if part.type not in _KINDS), 0)


def _add(conversation: Conversation, message: Message, origin: str, *, shift: int = 0) -> None:
    conversation.shifts[len(conversation.messages)] = shift
    conversation.messages.append(message)
    conversation.origins.append(origin)


def _read_answer(message: Message, path: str) -> Message:
    """What the assistant thought, said and called."""
    parts = message.content if isinstance(message.content, list) else []
    calls = list(message.tool_calls or [])
    thoughts = [message.reasoning_content] if message.reasoning_content else []
    for index, part in enumerate(parts):
        where = f"{path}[{index}]"
        if part.type == "thinking":
            thoughts += [part.thinking] if part.thinking else []
        elif part.type == "tool_use":
            if not part.name:
                raise InvalidRequest(f"'{where}.name' is required.", param=f"{where}.name")
            calls.append(ToolCall(CalledFunction(part.name, part.input or {}), id=part.id))
        elif part.type == "tool_result":
            raise InvalidRequest(f"'{where}': a result is part of the user's turn.", param=where)
    return msgspec.structs.replace(
        message,
        content=[part for part in parts if part.type not in _KINDS],
        tool_calls=calls or None,
        reasoning_content="\n\n".join(thoughts) or None,
    )


def _add_turn(conversation: Conversation, message: Message, origin: str) -> None:
    """Results, each a message of its own, and what else is in the turn, in this order."""
    said: list[Part] = []
    for index, part in enumerate(message.content if isinstance(message.content, list) else []):
        where = f"{origin}.content[{index}]"
        if part.type == "tool_result":
            if not part.tool_use_id:
                raise InvalidRequest(f"'{where}.tool_use_id' is required.", param=f"{where}.tool_use_id")
            result = Message(role="tool", content=_read_result(part), tool_call_id=part.tool_use_id)
            _add(conversation, result, where)
        elif part.type in _KINDS:
            raise InvalidRequest(f"'{where}': '{part.type}' is part of the assistant's turn.", param=where)
        else:
            said.append(part)
    if said:
        said_message = msgspec.structs.replace(message, content=said)
        _add(conversation, said_message, origin, shift=_count_before_said(message))


def _read_result(part: Part) -> str | list[Part]:
    """Chat templates have no place for a failure, so the text says it, unless it does so already."""
    content = part.content or ""
    if not part.is_error:
        return content
    text = content if isinstance(content, str) else next((inner.text for inner in content if inner.text), "") or ""
    if text.lower().startswith(_ERROR.lower()):
        return content
    if isinstance(content, str):
        return f"{_ERROR}: {content}" if content else _ERROR
    return [Part("text", text=f"{_ERROR}:"), *content]
