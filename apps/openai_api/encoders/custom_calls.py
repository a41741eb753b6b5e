"""Calls of custom tools: what the model writes as a function's one argument, as the text that it stands for."""

import json
import re

from apps.openai_api.encoders.responses_items import CallItem, Event
from apps.openai_api.encoders.responses_object import Item
from apps.openai_api.schemas.messages import CUSTOM_ARGUMENT

_HEAD = re.compile(rf'\s*\{{\s*"{CUSTOM_ARGUMENT}"\s*:\s*"')
_BLANK = re.compile(r"\s+")
# As much of a JSON string as can be read: an escape, and a pair of surrogates, only as a whole.
_READABLE = re.compile(
    r'(?:[^"\\]|\\[^u]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*'
)
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}")
_MAX_ESCAPE = 12  # characters of a pair of surrogates


class InputReader:
    """Reads `{"input": "…"}` piece by piece. What is of another form is the input itself."""

    def __init__(self) -> None:
        self._unread = ""
        self._state = "head"

    def add(self, piece: str) -> str:
        """The text that has become readable."""
        self._unread += piece
        if self._state == "head":
            self._read_head()
        match self._state:
            case "plain":
                text, self._unread = self._unread, ""
                return text
            case "string":
                return self._read_string()
        return ""

    def end(self) -> str:
        """What is left when nothing more comes."""
        text = self._unread if self._state in ("head", "plain") else ""
        self._unread = ""
        return text

    def _read_head(self) -> None:
        if match := _HEAD.match(self._unread):
            self._state = "string"
            self._unread = self._unread[match.end() :]
        elif not f'{{"{CUSTOM_ARGUMENT}":"'.startswith(_BLANK.sub("", self._unread)):
            self._state = "plain"

    def _read_string(self) -> str:
        texts: list[str] = []
        while True:
            match = _READABLE.match(self._unread)
            end = match.end() if match else 0
            texts.append(json.loads(f'"{self._unread[:end]}"', strict=False))
            self._unread = self._unread[end:]
            if self._unread.startswith('"'):
                self._state, self._unread = "end", ""
            if not self._is_broken():
                return "".join(texts)
            texts.append("\N{REPLACEMENT CHARACTER}")
            self._unread = self._unread[6 if _ESCAPE.match(self._unread) else 2 :]

    def _is_broken(self) -> bool:
        """An escape that no further piece could complete."""
        return self._unread.startswith("\\u") and len(self._unread) >= _MAX_ESCAPE


class CustomCallItem(CallItem):
    """A custom tool that it calls."""

    prefix = "ctc"
    _reader: InputReader | None = None

    def add(self, text: str) -> list[Event]:
        self._reader = self._reader or InputReader()
        return self._add_input(self._reader.add(text))

    def make(self, status: str) -> Item:
        item = {
            "id": self._id,
            "type": "custom_tool_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._called.name,
            "input": self._text,
        }
        return item if self._called.namespace is None else {**item, "namespace": self._called.namespace}

    def _make_done(self) -> list[Event]:
        events = self._add_input(self._reader.end()) if self._reader is not None else []
        done = {"type": "response.custom_tool_call_input.done", "item_id": self._id, **self._at}
        return [*events, {**done, "input": self._text}]

    def _add_input(self, text: str) -> list[Event]:
        if not text:
            return []
        self._texts.append(text)
        return [{"type": "response.custom_tool_call_input.delta", "item_id": self._id, **self._at, "delta": text}]
