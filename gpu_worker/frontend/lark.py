"""Pieces of llguidance's Lark dialect: strings, texts that hold no mark, patterns. Knows no schema and no format."""

import json
import re

from llguidance import regex_to_lark

ANY_TEXT = "(?s:.*)"

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(\.\d{{1,6}})?(Z|[+\-]{_CLOCK})"
# The 29th of February, which not every year has, is in none.
_DATE = r"\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_ATOM = r"[A-Za-z0-9_+\-]+"
# Values of JSON Schema's `format`, as texts that are certainly of it.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"({_DATE})T{_TIME}",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "email": rf"{_ATOM}(\.{_ATOM})*@[a-z0-9]+(\.[a-z0-9]+)+",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
}


def quote(text: str) -> str:
    """A Lark string; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def exclude(marks: tuple[str, ...]) -> str:
    """A Lark terminal of all texts that hold none of these."""
    any_mark = "|".join(map(escape, marks))
    return f"/{ANY_TEXT}/ & ~/{ANY_TEXT}({any_mark}){ANY_TEXT}/" if marks else f"/{ANY_TEXT}/"


def escape(text: str) -> str:
    """The text as a regular expression between slashes."""
    return re.sub(r"([!-/:;?@\[-`{-~])", r"\\\1", text).replace("\n", r"\n")


def search(pattern: str) -> str:
    """A pattern that JSON Schema searches for, as one of the whole text."""
    body = pattern.removeprefix("^")
    is_anchored = body.endswith("$") and (len(body) - len(body[:-1].rstrip("\\"))) % 2
    before = "" if pattern.startswith("^") else ANY_TEXT
    body, after = (body[:-1], "") if is_anchored else (body, ANY_TEXT)
    return f"/{before}({regex_to_lark(body, 'dw')}){after}/"


def match(pattern: str) -> str:
    """A regular expression of the whole text, in which digits are ASCII."""
    return f"/{regex_to_lark(pattern, 'dw')}/"


def join_choices(choices: list[str]) -> str:
    """One of these expressions."""
    return f"({' | '.join(choices)})"
