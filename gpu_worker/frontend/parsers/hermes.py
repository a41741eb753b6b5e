"""Tool calls as <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes, Qwen 2.5 and 3, SmolLM 3."""

import enum
import json
import re
import secrets
from typing import Any

from gpu_worker.frontend.parsers.base import ToolCallSplit
from gpu_worker.frontend.stop import count_partial_match
from gpu_worker.protocol import ToolCallDelta

_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"
# The order every model of this format was trained on: with the name known, arguments can be streamed.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
# What JSON may hold outside of its strings: punctuation, blanks, numbers, true, false, null.
_OUTSIDE_STRINGS = frozenset('{}[]:," \t\r\n+-.0123456789eE' + "truefalsenull")


class _State(enum.Enum):
    CONTENT = enum.auto()  # before, between and after calls
    BODY = enum.auto()  # after <tool_call>: name not known yet
    ARGUMENTS = enum.auto()  # within the arguments object, which is passed on as it comes
    TAIL = enum.auto()  # after the arguments object, up to </tool_call>


class HermesParser:
    """Streams a call once its name is known; a call in another order of keys comes in one piece at its end.

    Blanks around calls are dropped. A body that is no call becomes content, tags included. When arguments
    that are already being streamed turn out to be cut or malformed, the call stays incomplete (it does not
    count in `num_complete`) and what follows is content.
    """

    markers = (_OPEN, _CLOSE)

    def __init__(self) -> None:
        self.num_complete = 0
        self._num_started = 0
        self._state = _State.CONTENT
        self._held = ""
        self._gap = ""  # the blanks before <tool_call>, shown only when it was no call
        self._arguments = _ObjectScanner()

    @staticmethod
    def reads(template: str) -> bool:
        """Whether a chat template speaks this format (and not the XML one of the same tags)."""
        return _OPEN in template and "<function=" not in template and '"arguments"' in template.replace("\\", "")

    def push(self, text: str) -> ToolCallSplit:
        self._held += text
        content: list[str] = []
        calls: list[ToolCallDelta] = []
        while self._advance(content, calls):
            pass
        return ToolCallSplit("".join(content), calls)

    def flush(self) -> ToolCallSplit:
        held, self._held = self._held, ""
        state, self._state = self._state, _State.CONTENT
        if state is _State.BODY:
            if call := _parse_call(held):
                return ToolCallSplit("", [self._start_call(*call, is_complete=True)])
            return ToolCallSplit(self._gap + _OPEN + held, [])
        if state is _State.TAIL:
            held = _strip_tail(held)
        is_blank_after_call = self._num_started and not held.strip()
        return ToolCallSplit("" if is_blank_after_call else held, [])

    def _advance(self, content: list[str], calls: list[ToolCallDelta]) -> bool:
        """One transition. Returns whether there may be another one without more text."""
        match self._state:
            case _State.CONTENT:
                return self._read_content(content)
            case _State.BODY:
                return self._read_body(content, calls)
            case _State.ARGUMENTS:
                return self._read_arguments(calls)
            case _State.TAIL:
                return self._read_tail(content)

    def _read_content(self, content: list[str]) -> bool:
        before, tag, rest = self._held.partition(_OPEN)
        if tag:
            content.append(before.rstrip())
            self._gap = before[len(content[-1]) :]
            self._held, self._state = rest, _State.BODY
            return True
        visible = before[: len(before) - count_partial_match(before, _OPEN)].rstrip()
        content.append(visible)
        self._held = before[len(visible) :]
        return False

    def _read_body(self, content: list[str], calls: list[ToolCallDelta]) -> bool:
        if head := _HEAD.match(self._held):
            name = _load_json(head[1])
            if isinstance(name, str):
                calls.append(self._start_call(name, ""))
                self._held, self._state = self._held[head.end() :], _State.ARGUMENTS
                self._arguments = _ObjectScanner()
                return True
        end = self._held.find(_CLOSE)
        while end >= 0:
            body = self._held[:end]
            if call := _parse_call(body):
                calls.append(self._start_call(*call, is_complete=True))
            elif _ends_within_string(body):  # the tag is part of an argument
                end = self._held.find(_CLOSE, end + 1)
                continue
            else:
                content.append(self._gap + _OPEN + body + _CLOSE)
            self._held, self._state = self._held[end + len(_CLOSE) :], _State.CONTENT
            return True
        return False

    def _read_arguments(self, calls: list[ToolCallDelta]) -> bool:
        end = self._arguments.scan(self._held)
        piece, self._held = self._held[:end], self._held[end:]
        if piece:
            calls.append(ToolCallDelta(index=self._num_started - 1, arguments=piece))
        if self._arguments.is_malformed:
            self._state = _State.CONTENT
        elif self._arguments.is_closed:
            if isinstance(_load_json(self._arguments.text), dict):
                self.num_complete += 1
            self._state = _State.TAIL
        else:
            return False
        return True

    def _read_tail(self, content: list[str]) -> bool:
        tail, tag, rest = self._held.partition(_CLOSE)
        if not tag:
            return False
        content.append(_strip_tail(tail))
        self._held, self._state = rest, _State.CONTENT
        return True

    def _start_call(self, name: str, arguments: str, *, is_complete: bool = False) -> ToolCallDelta:
        delta = ToolCallDelta(
            index=self._num_started, id=f"call_{secrets.token_hex(12)}", name=name, arguments=arguments
        )
        self._num_started += 1
        self.num_complete += is_complete
        return delta


class _ObjectScanner:
    """Finds the end of a JSON object that comes in pieces, beginning at its opening brace."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_malformed = False
        self.is_in_string = False
        self._pieces: list[str] = []
        self._depth = 0
        self._is_escaped = False

    @property
    def text(self) -> str:
        """Everything that was scanned and belongs to the object."""
        return "".join(self._pieces)

    def scan(self, text: str) -> int:
        """How many characters of `text` belong to the object. Sets `is_closed` or `is_malformed`."""
        end = self._find_end(text)
        self._pieces.append(text[:end])
        return end

    def _find_end(self, text: str) -> int:
        for position, character in enumerate(text):
            if self.is_in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self.is_in_string = False
            elif character == '"':
                self.is_in_string = True
            elif character not in _OUTSIDE_STRINGS:
                self.is_malformed = True
                return position
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_closed = True
                    return position + 1
        return len(text)


def _strip_tail(tail: str) -> str:
    """What stands between the arguments and </tool_call> beside the brace that models at times forget or double."""
    return tail.strip().strip("}").strip()


def _parse_call(body: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text of an object) of a complete call body, or None if it is none."""
    call = _load_json(body)
    if not isinstance(call, dict) or not isinstance(name := call.get("name"), str) or not name:
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if arguments is None:
        return name, "{}"
    if isinstance(arguments, str) and isinstance(_load_json(arguments), dict):
        return name, arguments
    return (name, json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _load_json(text: str) -> Any:
    """The value, or None where `text` is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _ends_within_string(text: str) -> bool:
    scanner = _ObjectScanner()
    start = text.find("{")
    if start < 0:
        return False
    scanner.scan(text[start:])
    return not scanner.is_closed and not scanner.is_malformed and scanner.is_in_string
