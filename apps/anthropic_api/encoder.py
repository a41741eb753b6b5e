"""The events of one answer as events of the Messages API, and their fold: the message object.

The whole answer is what the stream adds up to, so there is one way to it. Knows nothing of HTTP.
https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from typing import Any

from apps.anthropic_api.blocks import Event, HiddenThinkingBlock, OpenBlock, TextBlock, ThinkingBlock, ToolUseBlock
from apps.anthropic_api.schemas.body import MessagesCall
from apps.openai_api.encoders.responses import encode_event
from gpu_worker.protocol import Delta, Finished, FinishReason, Started, ToolCallDelta, Usage

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "length": "max_tokens",
    "abort": "max_tokens",  # it ended before its time, as one cut by max_tokens does
}


class MessageEncoder:
    """Used by one request: `start`, `add_delta` for each delta, `finish`. At most one block is open."""

    def __init__(self, call: MessagesCall) -> None:
        self._call = call
        self._open: OpenBlock | None = None
        self.message: dict[str, Any] = {
            "id": call.request.id,
            "type": "message",
            "role": "assistant",
            "model": call.request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": {},
        }

    def start(self, started: Started) -> bytes:
        """The answer is accepted, and waits or runs. What of the prompt is cached is known at its end."""
        self.message["usage"] = _make_usage(Usage(prompt_tokens=started.prompt_tokens))
        return _encode([{"type": "message_start", "message": self.message}, {"type": "ping"}])

    def add_delta(self, delta: Delta) -> bytes:
        """Nothing while tokens have not become text."""
        if delta.text and isinstance(self._open, TextBlock) and not delta.reasoning and delta.tool_calls is None:
            return self._open.add(delta.text)
        encoded = b""
        calls = list(delta.tool_calls or ())
        while calls and isinstance(self._open, ToolUseBlock) and self._open.call_index == calls[0].index:
            encoded += self._open.add(calls.pop(0).arguments)  # the rest of a call comes before what follows it
        if delta.reasoning:
            encoded += self._add(ThinkingBlock, delta.reasoning)
        if delta.text:
            encoded += self._add(TextBlock, delta.text)
        for piece in calls:
            encoded += self._add_call(piece)
        return encoded

    def finish(self, finished: Finished) -> bytes:
        """Closes what is open. From now on the message is whole."""
        events = self._close()
        reason, stop_sequence = self._find_stop(finished)
        end = {"stop_reason": reason, "stop_sequence": stop_sequence, "stop_details": None}
        usage = _make_usage(finished.usage)
        self.message |= {**end, "usage": usage}
        return _encode([*events, {"type": "message_delta", "delta": end, "usage": usage}, {"type": "message_stop"}])

    def _find_stop(self, finished: Finished) -> tuple[str, str | None]:
        if finished.reason == "stop" and isinstance(finished.stop, str):
            return "stop_sequence", finished.stop
        if finished.reason == "length" and finished.usage.completion_tokens < self._call.request.sampling["max_tokens"]:
            return "model_context_window_exceeded", None
        return _STOP_REASONS[finished.reason], None

    def _add(self, kind: type[OpenBlock], text: str) -> bytes:
        """To the open block, or to a new one of this kind."""
        encoded = b""
        if not isinstance(self._open, kind):
            is_hidden = kind is ThinkingBlock and not self._call.shows_thinking
            encoded = self._begin(HiddenThinkingBlock if is_hidden else kind)
        return encoded + self._open.add(text) if self._open is not None else encoded

    def _add_call(self, piece: ToolCallDelta) -> bytes:
        encoded = b""
        if not isinstance(self._open, ToolUseBlock) or self._open.call_index != piece.index:
            encoded = self._begin(ToolUseBlock, piece)
        return encoded + self._open.add(piece.arguments) if self._open is not None else encoded

    def _begin(self, kind: type[OpenBlock], *details: Any) -> bytes:
        events = self._close()
        self._open = kind(len(self.message["content"]), *details)
        return _encode([*events, *self._open.open()])

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        self.message["content"].append(closed.make())
        return closed.close()


def _encode(events: list[Event]) -> bytes:
    return b"".join(map(encode_event, events))


def _make_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts what was read from the cache beside `input_tokens`, not within them."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
