"""The tool calls of one choice of a chat completion: the pieces in which a model makes them, as they are sent.

A piece has the shape of a chunk's `tool_calls`; whole calls are the fold of these pieces.
"""

from typing import Any

from apps.openai_api.encoders.custom_calls import InputReader
from gpu_worker.protocol import ToolCallDelta

Piece = dict[str, Any]


class CallWriter:
    """Calls of custom tools leave as the text that the model writes to them, all others as functions."""

    def __init__(self, customs: frozenset[str]) -> None:
        """`customs`: the names of custom tools."""
        self._customs = customs
        self._readers: dict[int, InputReader] = {}

    def write(self, calls: list[ToolCallDelta] | None) -> list[Piece]:
        """Those of a delta. Nothing for a piece that has not become text yet."""
        return [piece for call in calls or () if (piece := self._write(call)) is not None]

    def end(self) -> list[Piece]:
        """What was held back when the choice ends."""
        rests = [(index, reader.end()) for index, reader in self._readers.items()]
        return [{"index": index, "custom": {"input": text}} for index, text in rests if text]

    def _write(self, call: ToolCallDelta) -> Piece | None:
        if call.name is not None and call.name in self._customs:
            self._readers[call.index] = InputReader()
        reader = self._readers.get(call.index)
        if reader is None:
            return _make_piece(call, "function", "arguments", call.arguments)
        text = reader.add(call.arguments)
        return _make_piece(call, "custom", "input", text) if text or call.name is not None else None


def add_piece(calls: list[Piece], piece: Piece) -> None:
    """A piece onto the calls that it is a part of: afterwards they are as a whole answer has them."""
    if piece["index"] == len(calls):
        kind = piece["type"]
        calls.append({"id": piece["id"], "type": kind, kind: dict(piece[kind])})
        return
    call = calls[piece["index"]]
    body = call[call["type"]]
    for name, text in piece[call["type"]].items():
        body[name] += text


def _make_piece(call: ToolCallDelta, kind: str, field: str, text: str) -> Piece:
    if call.name is None:
        return {"index": call.index, kind: {field: text}}
    return {"index": call.index, "id": call.id, "type": kind, kind: {"name": call.name, field: text}}
