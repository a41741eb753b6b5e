"""What the model said in one round: gathered from its deltas, and as the messages that the next round begins with."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from gpu_worker.protocol import Delta, Finished, FinishReason, Usage


@dataclass(slots=True)
class Call:
    """One call of a function, complete when its round is."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Turn:
    """One round."""

    calls: list[Call] = field(default_factory=list)
    finished: Finished | None = None
    _texts: list[str] = field(default_factory=list)
    _reasonings: list[str] = field(default_factory=list)

    @property
    def reason(self) -> FinishReason:
        """Why it ended."""
        return "abort" if self.finished is None else self.finished.reason

    def make_finish(self, usage: Usage, *, is_cut: bool) -> Finished:
        """The end of an answer whose last round this is. Cut: there was no room for another."""
        finished = self.finished or Finished("", self.reason)
        return msgspec.structs.replace(finished, usage=usage, reason="length" if is_cut else self.reason)

    def add(self, delta: Delta) -> None:
        """The next piece."""
        self._texts.append(delta.text)
        self._reasonings.append(delta.reasoning)
        for piece in delta.tool_calls or ():
            if piece.index == len(self.calls):
                self.calls.append(Call(piece.id or f"call_{piece.index}", piece.name or ""))
            self.calls[piece.index].arguments += piece.arguments

    def make_messages(self, contents: dict[str, str | list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The assistant's turn with those of its calls that have a result, and the results, by the calls' ids."""
        called = [call for call in self.calls if call.id in contents]
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts)}
        if reasoning := "".join(self._reasonings):
            message["reasoning_content"] = reasoning
        message["tool_calls"] = [make_call(call.id, call.name, call.arguments) for call in called]
        return [message, *(make_answer(call.id, contents[call.id]) for call in called)]


def make_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call in a message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}


def make_answer(call_id: str, content: str | list[dict[str, Any]]) -> dict[str, Any]:
    """The message with its result."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def count_media(message: dict[str, Any]) -> int:
    """Pictures and recordings that it holds."""
    content = message.get("content")
    return sum(part.get("type") != "text" for part in content) if isinstance(content, list) else 0


def add_usage(first: Usage, second: Usage) -> Usage:
    """Of two rounds."""
    return Usage(
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        cached_tokens=first.cached_tokens + second.cached_tokens,
        reasoning_tokens=first.reasoning_tokens + second.reasoning_tokens,
    )
