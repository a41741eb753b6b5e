"""One content block of an answer from its first piece to its last, with the events that tell of it."""

from typing import Any

import msgspec
from msgspec import Raw

from apps.core.http import encode_json
from gpu_worker.protocol import ToolCallDelta

Event = dict[str, Any]

# Anthropic's servers sign what a model thought, and clients send the signature back. Here nobody checks it.
SIGNATURE = "YXRyaXVt"


class OpenBlock:
    """A block in the making. The order of its events: `open`, `add` any number of times, `close`."""

    kind = ""  # of the block
    field = ""  # that grows
    delta = ""  # what its deltas are called

    def __init__(self, index: int) -> None:
        self.index = index
        self._texts: list[str] = []
        piece = encode_json({"type": self.delta})[:-1]
        self._head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
        self._head += piece + b',"' + self._delta_field.encode() + b'":'

    def open(self) -> list[Event]:
        """It begins, empty."""
        return [{"type": "content_block_start", "index": self.index, "content_block": self.make()}]

    def add(self, text: str) -> bytes:
        """It grows: nearly all events of a stream are of this kind."""
        self._texts.append(text)
        return self._head + encode_json(text) + b"}}\n\n"

    def close(self) -> list[Event]:
        """It ends."""
        return [{"type": "content_block_stop", "index": self.index}]

    def make(self) -> dict[str, Any]:
        """The block as it stands."""
        return {"type": self.kind, self.field: "".join(self._texts)}

    @property
    def _delta_field(self) -> str:
        return self.field


class TextBlock(OpenBlock):
    """What the model says."""

    kind, field, delta = "text", "text", "text_delta"


class ThinkingBlock(OpenBlock):
    """What it thinks."""

    kind, field, delta = "thinking", "thinking", "thinking_delta"

    def make(self) -> dict[str, Any]:
        return {**super().make(), "signature": SIGNATURE if self._texts else ""}

    def close(self) -> list[Event]:
        signature = {"type": "signature_delta", "signature": SIGNATURE}
        return [{"type": "content_block_delta", "index": self.index, "delta": signature}, *super().close()]


class HiddenThinkingBlock(ThinkingBlock):
    """What it thinks, for a client that is not to be shown it."""

    def add(self, text: str) -> bytes:
        self._texts.append("")
        return b""


class ToolUseBlock(OpenBlock):
    """A tool that it calls."""

    kind, field, delta = "tool_use", "input", "input_json_delta"

    def __init__(self, index: int, piece: ToolCallDelta) -> None:
        super().__init__(index)
        self.call_index = piece.index
        self._named = {"id": piece.id, "name": piece.name}

    def add(self, text: str) -> bytes:
        return super().add(text) if text else b""

    def make(self) -> dict[str, Any]:
        return {"type": self.kind, **self._named, "input": self._make_input()}

    def _make_input(self) -> Raw:
        """The model's own JSON; of a call that was cut short, an empty object."""
        text = "".join(self._texts)
        try:
            msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            text = "{}"
        return Raw(text.encode())

    @property
    def _delta_field(self) -> str:
        return "partial_json"
