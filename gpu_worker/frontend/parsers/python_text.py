"""Calls and values in Python's notation, as models write them: f(a=1, b='x', c=[True, None]). Nothing is evaluated."""

from typing import Any

import regex

_STRING = r"""[rRuU]?+(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_TOKEN = regex.compile(rf"\s*+(?:(?P<string>{_STRING})|(?P<word>[\w.+-]++)|(?P<sign>[()\[\]{{}}:,=]))", regex.DOTALL)
_END = regex.compile(r"\s*+\Z")
_ESCAPE = regex.compile(r"\\(\n|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", regex.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "0": "\0", "\n": "", "b": "\b", "f": "\f"}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_NUMBER = regex.compile(r"[+-]?(?:(?:0|[1-9]\d*+)(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?")


class PythonScanner:
    """Finds the end of a bracketed text that comes in pieces, beginning at its opening bracket."""

    def __init__(self) -> None:
        self.is_closed = False
        self.is_malformed = False
        self._depth = 0
        self._quote = ""  # what closes the string being read; empty outside of strings
        self._run = ""  # the quotation marks read last: of an empty string, or at the end of a long one
        self._is_empty = False  # whether the string being read is, so far
        self._is_escaped = False

    def scan(self, text: str) -> int:
        """How many characters of `text` belong to it. Sets `is_closed`."""
        for position, character in enumerate(text):
            if self._quote:
                self._read_in_string(character)
            elif character in "'\"":
                # a third mark after an empty string: a long string begins
                self._quote = character * 3 if self._run == character * 2 else character
                self._run, self._is_empty = "", True
            else:
                self._run = ""
                self._depth += (character in "([{") - (character in ")]}")
                if self._depth == 0:
                    self.is_closed = True
                    return position + 1
        return len(text)

    def _read_in_string(self, character: str) -> None:
        if self._is_escaped or character == "\\":
            self._is_escaped = not self._is_escaped
            self._run, self._is_empty = "", False
        elif character != self._quote[0]:
            self._run, self._is_empty = "", False
        else:
            self._run += character
            if self._run == self._quote:
                self._run = character * 2 if self._is_empty and len(self._quote) == 1 else ""
                self._quote = ""


class _Reader:
    """Reads values one after the other. Every method raises ValueError on anything else."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._next = self._read_token()

    def take(self, sign: str) -> bool:
        """Read this sign, if it is the next token."""
        if self._next[0] != "sign" or self._next[1] != sign:
            return False
        self._next = self._read_token()
        return True

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            raise ValueError(f"{sign} expected")

    def expect_end(self) -> None:
        if self._next[0]:
            raise ValueError("more text than expected")

    def read_word(self) -> str:
        kind, text = self._next
        if kind != "word":
            raise ValueError("a name expected")
        self._next = self._read_token()
        return text

    def read_value(self) -> Any:
        kind, text = self._next
        if kind == "string":
            return self._read_strings()
        if kind == "word":
            self._next = self._read_token()
            return _WORDS[text] if text in _WORDS else _read_number(text)
        if self.take("["):
            return self.read_items("]")
        if self.take("("):
            return self.read_items(")")
        self.expect("{")
        return dict(self._read_pairs())

    def read_items(self, closer: str) -> list[Any]:
        items = []
        while not self.take(closer):
            items.append(self.read_value())
            if not self.take(","):
                self.expect(closer)
                break
        return items

    def read_keywords(self) -> dict[str, Any]:
        """a=1, b=2 up to the closing parenthesis."""
        values: dict[str, Any] = {}
        while not self.take(")"):
            name = self.read_word()
            self.expect("=")
            values[name] = self.read_value()
            if not self.take(","):
                self.expect(")")
                break
        return values

    def _read_pairs(self) -> list[tuple[str, Any]]:
        pairs = []
        while not self.take("}"):
            key = self.read_value()
            if not isinstance(key, str):
                raise ValueError("JSON has no other keys than strings")
            self.expect(":")
            pairs.append((key, self.read_value()))
            if not self.take(","):
                self.expect("}")
                break
        return pairs

    def _read_strings(self) -> str:
        text = ""
        while self._next[0] == "string":
            text += _read_string(self._next[1])
            self._next = self._read_token()
        return text

    def _read_token(self) -> tuple[str, str]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            if _END.match(self._text, self._at):
                return "", ""
            raise ValueError("a character that no value has")
        self._at = found.end()
        return found.lastgroup, found[found.lastgroup]


def read_python_value(text: str) -> Any:
    """A JSON-like value written as Python does. Raises ValueError, RecursionError."""
    reader = _Reader(text)
    value = reader.read_value()
    reader.expect_end()
    return value


def read_python_call(text: str) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments of f(a=1). Raises ValueError, RecursionError."""
    reader = _Reader(text)
    name = reader.read_word()
    reader.expect("(")
    arguments = reader.read_keywords()
    reader.expect_end()
    return name, arguments


def _read_number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("a value expected")
    return float(text) if any(sign in text for sign in ".eE") else int(text)


def _read_string(text: str) -> str:
    is_raw = text[0] in "rR"
    text = text.lstrip("rRuU")
    size = 3 if text[:3] in ("'''", '"""') and len(text) >= 6 else 1
    inside = text[size:-size]
    return inside if is_raw else _ESCAPE.sub(_read_escape, inside)


def _read_escape(found: Any) -> str:
    escape: str = found[1]
    if escape[0] in "xuU" and len(escape) > 1:
        code = int(escape[1:], 16)
        return chr(code) if code <= 0x10FFFF else found[0]
    return _ESCAPES.get(escape, found[0])
