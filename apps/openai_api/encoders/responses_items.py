"""One item of an answer from its first piece to its last, with the events that tell of it."""

from typing import Any

from apps.core.http import encode_json
from apps.openai_api.encoders.parts import encode_logprobs
from apps.openai_api.encoders.responses_object import Item, make_message, make_reasoning, make_text_part
from apps.openai_api.schemas.responses_tools import CalledName
from gpu_worker.protocol import TokenLogprob, ToolCallDelta

Event = dict[str, Any]


class OpenItem:
    """An item in the making. The order of its events: `open`, `add` any number of times, `close`."""

    prefix = ""

    def __init__(self, item_id: str, output_index: int) -> None:
        self._id = item_id
        self._at = {"output_index": output_index}
        self._texts: list[str] = []

    def open(self) -> list[Event]:
        """It begins, empty."""
        return [{"type": "response.output_item.added", **self._at, "item": self._make_empty()}]

    def add(self, text: str) -> list[Event]:
        """It grows."""
        raise NotImplementedError

    def close(self, status: str) -> list[Event]:
        """It ends, and is told once more as a whole."""
        return [*self._make_done(), {"type": "response.output_item.done", **self._at, "item": self.make(status)}]

    def make(self, status: str) -> Item:
        """The item as it stands."""
        raise NotImplementedError

    @property
    def _text(self) -> str:
        return "".join(self._texts)

    def _make_empty(self) -> Item:
        return self.make("in_progress")

    def _make_done(self) -> list[Event]:
        raise NotImplementedError


class _PartItem(OpenItem):
    """An item with one part, whose text grows."""

    _events = ""  # what the part's events are called
    _plain: dict[str, Any] = {}  # what a delta of text alone holds besides

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        name = f"{self._events}.delta"
        fields = encode_json({"type": name, **self._place, **self._plain})
        self._head = b"event: " + name.encode() + b"\ndata: " + fields[:-1] + b',"delta":'

    def open(self) -> list[Event]:
        return [*super().open(), {"type": "response.content_part.added", **self._place, "part": self._make_part()}]

    def add(self, text: str) -> list[Event]:
        self._texts.append(text)
        return [{"type": f"{self._events}.delta", **self._place, "delta": text}]

    def add_encoded(self, text: str, sequence_number: int) -> bytes:
        """As `add`, in the form in which it is sent: nearly all events of a stream are of this kind."""
        self._texts.append(text)
        return self._head + encode_json(text) + b',"sequence_number":%d}\n\n' % sequence_number

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, **self._at, "content_index": 0}

    def _make_part(self) -> Item:
        raise NotImplementedError

    def _make_done(self) -> list[Event]:
        part = self._make_part()
        fields: dict[str, Any] = {name: part[name] for name in ("text", "logprobs") if name in part}
        return [
            {"type": f"{self._events}.done", **self._place, **fields},
            {"type": "response.content_part.done", **self._place, "part": part},
        ]


class MessageItem(_PartItem):
    """What the model says."""

    prefix = "msg"
    _events = "response.output_text"
    _plain = {"logprobs": []}

    def __init__(self, item_id: str, output_index: int) -> None:
        super().__init__(item_id, output_index)
        self._logprobs: list[dict[str, Any]] = []

    def add_tokens(self, text: str, logprobs: list[TokenLogprob] | None) -> list[Event]:
        """Text, with the tokens that it is made of where they are asked for: some of them are no text yet."""
        if not text and not logprobs:
            return []
        encoded = encode_logprobs(logprobs or [])
        self._logprobs += encoded
        (event,) = self.add(text)
        return [{**event, "logprobs": encoded}]

    def make(self, status: str) -> Item:
        return make_message(self._id, [self._make_part()], status)

    def _make_empty(self) -> Item:
        return make_message(self._id, [], "in_progress")

    def _make_part(self) -> Item:
        return make_text_part(self._text, list(self._logprobs))


class ReasoningItem(_PartItem):
    """What it thinks."""

    prefix = "rs"
    _events = "response.reasoning_text"

    def make(self, status: str) -> Item:
        return make_reasoning(self._id, [self._make_part()], status)

    def _make_empty(self) -> Item:
        return make_reasoning(self._id, [], "in_progress")

    def _make_part(self) -> Item:
        return {"type": "reasoning_text", "text": self._text}


class CallItem(OpenItem):
    """A function that it calls."""

    prefix = "fc"

    def __init__(self, item_id: str, output_index: int, piece: ToolCallDelta, called: CalledName | None) -> None:
        super().__init__(item_id, output_index)
        self.index = piece.index
        self._call_id = piece.id
        self._called = called or CalledName(piece.name or "")

    def add(self, text: str) -> list[Event]:
        if not text:
            return []
        self._texts.append(text)
        return [{"type": "response.function_call_arguments.delta", "item_id": self._id, **self._at, "delta": text}]

    def make(self, status: str) -> Item:
        item = {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "arguments": self._text,
            "call_id": self._call_id,
            "name": self._called.name,
        }
        return item if self._called.namespace is None else {**item, "namespace": self._called.namespace}

    def _make_done(self) -> list[Event]:
        done = {"type": "response.function_call_arguments.done", "item_id": self._id, **self._at}
        return [{**done, "arguments": self._text}]
