"""The events of one answer as events of the Responses API, and their fold: the response object.

The whole answer is the stream's last response, so there is one way to it. Knows nothing of HTTP or the database.
https://platform.openai.com/docs/api-reference/responses-streaming
"""

import time
from typing import Any

from apps.core.errors import ServiceError
from apps.core.http import encode_json
from apps.openai_api.encoders.custom_calls import CustomCallItem
from apps.openai_api.encoders.responses_items import CallItem, Event, MessageItem, OpenItem, ReasoningItem
from apps.openai_api.encoders.responses_object import make_error, make_response, make_usage
from apps.openai_api.schemas.responses import ResponsesCall
from gpu_worker.protocol import Delta, Finished, FinishReason, Sampling, ToolCallDelta, Usage

_REASONS: dict[FinishReason, str] = {
    "length": "max_output_tokens",
    "abort": "max_output_tokens",  # it ended before its time, as one cut by max_output_tokens does
    "content_filter": "content_filter",
}


class ResponseEncoder:
    """Used by one request: `start`, `add_delta` for each delta, `finish`, `fail` or `cancel`, and `end`.

    At most one item is open: a piece of another kind, or of another call, closes it. No item is opened twice.
    """

    def __init__(self, call: ResponsesCall, sampling: Sampling) -> None:
        self.response = make_response(call, sampling)
        self._call = call
        self._open: OpenItem | None = None
        self._num_events = 0

    def queue(self) -> bytes:
        """The answer will be made in the background, whoever waits for it."""
        return self._encode([{"type": f"response.{name}", "response": self.response} for name in ("created", "queued")])

    def start(self) -> bytes:
        """The answer is accepted, and waits or runs."""
        created = [{"type": "response.created", "response": dict(self.response)}] if not self._num_events else []
        self.response["status"] = "in_progress"
        return self._encode([*created, {"type": "response.in_progress", "response": self.response}])

    def add_delta(self, delta: Delta) -> bytes:
        """Nothing while tokens have not become text."""
        if delta.text and isinstance(self._open, MessageItem) and _is_plain(delta):
            self._num_events += 1
            return self._open.add_encoded(delta.text, self._num_events - 1)
        events: list[Event] = []
        calls = list(delta.tool_calls or ())
        while calls and isinstance(self._open, CallItem) and self._open.index == calls[0].index:
            events += self._open.add(calls.pop(0).arguments)  # the rest of a call comes before what follows it
        if delta.reasoning:
            events += self._reach(ReasoningItem) + self._add(delta.reasoning)
        if delta.text:
            events += self._reach(MessageItem)
        if isinstance(self._open, MessageItem) and (delta.text or not calls):
            events += self._open.add_tokens(delta.text, delta.logprobs)
        for piece in calls:
            events += self._add_call(piece)
        return self._encode(events)

    def finish(self, finished: Finished) -> bytes:
        """Closes what is open. From now on the response is what it will be."""
        reason = _REASONS.get(finished.reason)
        events = [] if self.response["output"] or self._open else self._reach(MessageItem)
        events += self._close("completed" if reason is None else "incomplete")
        if reason is None:
            self.response |= {"status": "completed", "completed_at": int(time.time())}
        else:
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
        self.response["usage"] = make_usage(finished.usage)
        return self._encode(events)

    def skip(self) -> None:
        """Nothing is generated."""
        self.response |= {"status": "completed", "completed_at": int(time.time()), "usage": make_usage(Usage())}

    def fail(self, error: ServiceError) -> bytes:
        """Closes what is open: the answer ends here."""
        events = self._close("incomplete")
        self.response |= {"status": "failed", "error": make_error(error), "completed_at": None}
        return self._encode(events)

    def cancel(self) -> bytes:
        """Closes what is open: somebody wanted no more."""
        events = self._close("incomplete")
        self.response |= {"status": "cancelled", "completed_at": None}
        return self._encode(events)

    def end(self) -> bytes:
        """The last event: response.completed, response.incomplete or response.failed."""
        self._num_events += 1
        return encode_terminal(self.response, self._num_events - 1)

    def _add(self, text: str) -> list[Event]:
        return self._open.add(text) if self._open is not None else []

    def _add_call(self, piece: ToolCallDelta) -> list[Event]:
        if isinstance(self._open, CallItem) and self._open.index == piece.index:
            return self._open.add(piece.arguments)
        events = self._close("completed")
        self._open = self._make_call(piece)
        return events + self._open.open() + self._open.add(piece.arguments)

    def _make_call(self, piece: ToolCallDelta) -> CallItem:
        called = self._call.tools.names.get(piece.name or "")
        kind = CustomCallItem if called is not None and called.is_custom else CallItem
        return kind(*self._place(kind.prefix), piece, called)

    def _reach(self, kind: type[MessageItem] | type[ReasoningItem]) -> list[Event]:
        """An item of this kind is open."""
        if isinstance(self._open, kind):
            return []
        events = self._close("completed")
        self._open = kind(*self._place(kind.prefix))
        return events + self._open.open()

    def _close(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        events = closed.close(status)
        self.response["output"] = [*self.response["output"], closed.make(status)]
        return events

    def _place(self, prefix: str) -> tuple[str, int]:
        """Id and index of the next item. Ids name the response too, so that an item can be found by its id."""
        index = len(self.response["output"])
        return f"{prefix}_{self.response['id'].removeprefix('resp_')}_{index}", index

    def _encode(self, events: list[Event]) -> bytes:
        encoded = b""
        for event in events:
            encoded += encode_event({"sequence_number": self._num_events, **event})
            self._num_events += 1
        return encoded


def _is_plain(delta: Delta) -> bool:
    return not delta.reasoning and delta.tool_calls is None and delta.logprobs is None


def encode_event(event: Event) -> bytes:
    """One server-sent event, with its type on a line of its own."""
    return b"event: " + event["type"].encode() + b"\ndata: " + encode_json(event) + b"\n\n"


def encode_terminal(response: dict[str, Any], sequence_number: int) -> bytes:
    """The last event of a response that has ended. There is none of its own for one that was cancelled."""
    status = "failed" if response["status"] == "cancelled" else response["status"]
    return encode_event({"sequence_number": sequence_number, "type": f"response.{status}", "response": response})


def encode_early_failure(error: ServiceError) -> bytes:
    """The end of a stream that has told of waiting only: OpenAI's fields, and the object that SDKs look for."""
    fields: dict[str, Any] = error.as_dict()["error"]
    flat = {name: fields[name] for name in ("code", "message", "param")}
    return encode_event({"type": "error", "sequence_number": 0, **flat, "error": fields})
