"""Pieces of llguidance's Lark dialect: strings, texts that hold no mark, patterns. Knows no schema and no format."""

import json
import re

from llguidance import regex_to_lark

ANY_TEXT = "(?s:.*)"


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


def join_choices(choices: list[str]) -> str:
    """One of these expressions."""
    return f"({' | '.join(choices)})"
