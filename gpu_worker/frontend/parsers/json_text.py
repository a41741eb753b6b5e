"""JSON as models write it: values out of texts that may be anything, and the end of an object that comes in pieces."""

import json
import math
from typing import Any

# What JSON may hold outside of its strings: punctuation, blanks, numbers, true, false, null.
_OUTSIDE_STRINGS = frozenset('{}[]:," \t\r\n+-.0123456789eE' + "truefalsenull")


def load_json(text: str) -> Any:
    """The value, or None where `text` is not JSON (which knows neither NaN nor a number without end)."""
    try:
        return json.loads(text, parse_float=_read_float, parse_constant=_read_float)
    except (ValueError, RecursionError):
        return None


def dump_json(value: Any) -> str:
    """The text of a value, in the characters it was written with. Half a surrogate pair, which no wire takes, stays
    an escape. Raises ValueError for numbers that JSON has not."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return text if is_encodable(text) else json.dumps(value)


def write_arguments(arguments: Any) -> str:
    """Arguments of an earlier call: an object, or a text that the model wrote and that is none."""
    return arguments if isinstance(arguments, str) else dump_json(arguments)


def is_encodable(text: str) -> bool:
    """Whether it is free of half surrogate pairs, which escapes can smuggle in."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ObjectScanner:
    """Finds the end of a JSON object that comes in pieces, beginning at its opening brace."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_malformed = False
        self._depth = 0
        self.is_in_string = False
        self._is_escaped = False

    def scan(self, text: str) -> int:
        """How many characters of `text` belong to the object. Sets `is_closed` or `is_malformed`."""
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


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
