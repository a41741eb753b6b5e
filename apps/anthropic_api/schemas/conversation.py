"""Turns of the Messages API as the messages that a chat template knows, and back from a message to its turn.

Adjacent turns of one role become one, as Anthropic has it; results of tools, which are part of a user's turn there,
become messages of their own.
"""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from apps.anthropic_api.schemas.blocks import Block, Source, Turn
from apps.core.errors import InvalidRequest, ServiceError, UnsupportedParameter

_PLACE = re.compile(r"messages\[(\d+)\](?:\.content(?:\[(\d+)\])?)?([\w.\[\]]*)")
_ERROR = "Error"


class Conversation(NamedTuple):
    """The worker's messages, and the places in the request that they come from."""

    messages: list[dict[str, Any]]
    continues: bool  # the last message is the beginning of the answer
    origins: list[str]  # of each message
    part_origins: list[list[str]]  # of its parts

    def rename(self, error: ServiceError) -> None:
        """Have the error speak of what the client sent instead of what became of it."""
        error.param = error.param and _PLACE.sub(self._name, error.param)
        error.message = _PLACE.sub(self._name, error.message)

    def _name(self, place: re.Match[str]) -> str:
        index, part = int(place[1]), place[2] and int(place[2])
        if index >= len(self.origins):
            return place[0]
        parts = self.part_origins[index]
        if not isinstance(part, int) or part >= len(parts):
            return self.origins[index]
        return parts[part] + (".source" if place[3].startswith(".image_url") else "")


@dataclass
class _Draft:
    """A message in the making."""

    role: str
    origin: str
    parts: list[dict[str, Any]] = field(default_factory=list)
    part_origins: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    tool_use_id: str | None = None

    def add(self, part: dict[str, Any], origin: str) -> None:
        self.parts.append(part)
        self.part_origins.append(origin)

    def make(self) -> dict[str, Any]:
        texts = [part["text"] for part in self.parts if part["type"] == "text"]
        has_images = len(texts) < len(self.parts)
        message: dict[str, Any] = {"role": self.role, "content": self.parts if has_images else "\n".join(texts)}
        if self.thoughts:
            message["reasoning_content"] = "\n\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        if self.tool_use_id is not None:
            message["tool_call_id"] = self.tool_use_id
        return message


def convert_turns(system: str | list[Block] | None, turns: list[Turn]) -> Conversation:
    """Raises InvalidRequest or UnsupportedParameter naming the block."""
    if not turns:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    builder = _Builder()
    if system:
        builder.add_system(system, "system")
    for index, turn in enumerate(turns):
        builder.add(turn, f"messages[{index}]")
    drafts = builder.drafts
    last = drafts[-1]
    if last.calls:
        message = f"'{last.origin}': a 'tool_use' needs its 'tool_result' in the next message."
        raise InvalidRequest(message, param=last.origin)
    if last.role == "assistant" and not last.parts:
        raise InvalidRequest(f"'{last.origin}': there is no text to go on from.", param=last.origin)
    return Conversation(
        [draft.make() for draft in drafts],
        last.role == "assistant",
        [draft.origin for draft in drafts],
        [draft.part_origins for draft in drafts],
    )


class _Builder:
    def __init__(self) -> None:
        self.drafts: list[_Draft] = []

    def add(self, turn: Turn, path: str) -> None:
        if not turn.content and turn.role != "assistant":
            raise InvalidRequest(f"'{path}.content' must not be empty.", param=f"{path}.content")
        if turn.role == "system":
            return self.add_system(turn.content, path)
        if turn.role == "assistant":
            self._open("assistant", path)
        for block, where in _number(turn.content, path):
            if turn.role == "assistant":
                self._add_said(block, where)
            elif block.type == "tool_result":
                self._add_result(block, where)
            else:
                _add_part(self._open("user", path), block, where)

    def add_system(self, content: str | list[Block], path: str) -> None:
        draft = self._open("system", path)
        for block, where in _number(content, path):
            if block.type != "text":
                raise UnsupportedParameter(f"'{where}': what the system says is text.", param=where)
            _add_part(draft, block, where)

    def _open(self, role: str, origin: str) -> _Draft:
        """The draft that more of this role belongs to."""
        if not self.drafts or self.drafts[-1].role != role:
            self.drafts.append(_Draft(role, origin))
        return self.drafts[-1]

    def _add_said(self, block: Block, where: str) -> None:
        draft = self.drafts[-1]
        match block:
            case Block(type="thinking", thinking=str(thought)):
                if thought:  # left out when it was not to be shown
                    draft.thoughts.append(thought)
            case Block(type="tool_use", id=str(call_id), name=str(name)):
                function = {"name": name, "arguments": _read_input(block, where)}
                draft.calls.append({"id": call_id, "type": "function", "function": function})
            case Block(type="thinking" | "tool_use"):
                missing = "thinking" if block.type == "thinking" else "id" if block.id is None else "name"
                raise _make_missing(where, missing)
            case Block(type="image"):
                raise InvalidRequest(f"'{where}': a message of the assistant cannot hold images.", param=where)
            case _:
                if draft.calls:  # it was said after the call
                    draft = _Draft("assistant", draft.origin)
                    self.drafts.append(draft)
                _add_part(draft, block, where)

    def _add_result(self, block: Block, where: str) -> None:
        if block.tool_use_id is None:
            raise _make_missing(where, "tool_use_id")
        draft = _Draft("tool", where, tool_use_id=block.tool_use_id)
        if isinstance(block.content, dict):
            raise InvalidRequest(f"'{where}.content' must be a text or a list of blocks.", param=f"{where}.content")
        for inner, place in _number(block.content or "", where):
            _add_part(draft, inner, place)
        if block.is_error:
            _mark_error(draft, where)
        self.drafts.append(draft)


def _mark_error(draft: _Draft, where: str) -> None:
    """Chat templates have no place for it, so the text says it, unless it does so already."""
    first = draft.parts[0].get("text", "") if draft.parts else ""
    if not first:
        draft.parts.insert(0, {"type": "text", "text": _ERROR})
        draft.part_origins.insert(0, where)
    elif not first.lower().startswith(_ERROR.lower()):
        draft.parts[0] = {"type": "text", "text": f"{_ERROR}: {first}"}


def _number(content: str | list[Block], path: str) -> list[tuple[Block, str]]:
    """Each block with its place in the request."""
    if isinstance(content, str):
        return [(Block("text", text=content), f"{path}.content" if path != "system" else path)]
    prefix = path if path == "system" else f"{path}.content"
    return [(block, f"{prefix}[{index}]") for index, block in enumerate(content)]


def _add_part(draft: _Draft, block: Block, where: str) -> None:
    match block:
        case Block(type="text", text=str(text)):
            draft.add({"type": "text", "text": text}, where)
        case Block(type="text"):
            raise _make_missing(where, "text")
        case Block(type="image", source=Source() as source):
            draft.add({"type": "image_url", "image_url": _find_url(source, where)}, where)
        case Block(type="image"):
            raise _make_missing(where, "source")
        case _:
            message = f"'{where}': blocks of type '{block.type}' are not supported here."
            raise UnsupportedParameter(message, param=where)


def _read_input(block: Block, where: str) -> str:
    """The JSON text."""
    try:
        msgspec.json.decode(block.input, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(f"'{where}.input' must be an object.", param=f"{where}.input") from None
    return bytes(block.input).decode()


def _find_url(source: Source, where: str) -> str:
    match source:
        case Source(type="base64", media_type=str(kind), data=str(data)):
            return f"data:{kind};base64,{data}"
        case Source(type="url", url=str(url)) if url:
            return url
        case Source(type="base64" | "url"):
            message = f"'{where}.source' needs 'media_type' and 'data', or 'url'."
            raise InvalidRequest(message, param=f"{where}.source")
    message = f"'{where}.source' of type '{source.type}' is not supported, only 'base64' and 'url'."
    raise UnsupportedParameter(message, param=f"{where}.source.type")


def _make_missing(where: str, name: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}.{name}' is required.", param=f"{where}.{name}")
