"""Terminals of a Lark grammar as regular expressions: strings, patterns, ranges, and those that `common` has."""

import re

_META = re.compile(r"([\\.+*?()|\[\]{}^$/])")
_CONTROL = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\f": r"\f", "\v": r"\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_FLAGS = frozenset("is")

_NUMBER = {"int": "[0-9]+", "exp": "[eE][+-]?[0-9]+", "decimal": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)"}
_FLOAT = f"(?:{_NUMBER['int']}{_NUMBER['exp']}|{_NUMBER['decimal']}(?:{_NUMBER['exp']})?)"
# What Lark's grammar "common" defines.
COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": _NUMBER["int"],
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": _NUMBER["decimal"],
    "FLOAT": _FLOAT,
    "SIGNED_FLOAT": f"[+-]?{_FLOAT}",
    "NUMBER": f"(?:{_FLOAT}|[0-9]+)",
    "SIGNED_NUMBER": f"[+-]?(?:{_FLOAT}|[0-9]+)",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\[^\n])*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "SQL_COMMENT": r"--[^\n]*",
}


def escape_text(text: str) -> str:
    """An expression of this very text."""
    return "".join(_CONTROL.get(char, char) for char in _META.sub(r"\\\1", text))


def read_string(token: str) -> str:
    """`"text"`, or `"text"i` in either case. Raises ValueError for nothing."""
    text = _unescape(token)
    if not text:
        raise ValueError("a string is empty")
    return f"(?i:{escape_text(text)})" if token.endswith("i") else f"(?:{escape_text(text)})"


def read_range(first: str, last: str) -> str:
    """`"a".."z"`. Raises ValueError for what is no range."""
    low, high = _unescape(first), _unescape(last)
    if len(low) != 1 or len(high) != 1 or low > high:
        raise ValueError(f"{first}..{last} is no range of characters")
    return f"[{_escape_member(low)}-{_escape_member(high)}]"


def read_pattern(token: str) -> str:
    """`/pattern/` with its flags. Raises ValueError for a flag, or an assertion, that cannot be enforced."""
    body, _, flags = token[1:].rpartition("/")
    if unknown := sorted(set(flags) - _FLAGS):
        raise ValueError(f"the flag '{unknown[0]}' of a regular expression is not supported here")
    if re.search(r"(?<!\\)(?:\\\\)*\(\?(?![:isP])", body):
        raise ValueError("looking around in a regular expression cannot be enforced")
    body = body.replace(r"\/", "/")
    return f"(?{flags}:{body})"


def _unescape(token: str) -> str:
    return _ESCAPE.sub(_read_escape, token[1 : token.rindex('"')])


def _read_escape(found: re.Match[str]) -> str:
    if digits := found[1] or found[2] or found[3]:
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ValueError(f"'{found[0]}' is no character")
        return chr(code)
    return _ESCAPED.get(found[4], found[4])


def _escape_member(char: str) -> str:
    return _CONTROL.get(char) or (f"\\{char}" if char in "\\]^-[" else char)
