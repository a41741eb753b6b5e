"""Tool calls as call:NAME{key:value} between markers, strings quoted by a token: FunctionGemma and Gemma 4."""

from collections.abc import Collection
from typing import Any

import regex

from gpu_worker.frontend.parsers.base import CallShape, Notation
from gpu_worker.frontend.parsers.json_text import dump_json, load_json
from gpu_worker.frontend.parsers.reader import CallReader, Malformed, Reading


def _make_notation(closing: str, quote: str) -> Notation:
    return Notation(
        before_key="",
        after_key='":"',
        after_value="",
        separator='","',
        key=r"\w[\w .-]*",
        values="marked",
        opening=quote,
        closing=quote,
        excluded=(quote, closing),
    )


class FunctionGemmaParser(CallReader):
    """One block for each call, which comes in one piece."""

    name = "functiongemma"
    markers: tuple[str, ...] = ("<start_function_call>", "<end_function_call>", "<escape>")
    opening = regex.compile(r"<start_function_call>\s*+(?=call:)")
    _head = regex.compile(r"call:\s*+([\w.:/-]++)\s*+(?=\{)")
    notation = _make_notation(*markers[1:])

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<start_function_call>" in template

    @classmethod
    def call_shape(cls, name: str, template: str) -> CallShape:
        opening, closing, _ = cls.markers
        return CallShape(before=f"{opening}call:{name}{{", after=f"}}{closing}", trigger=opening)

    def read_block(self) -> Reading[None]:
        head = yield from self.match(self._head)
        body = yield from self.read_until(self.markers[1])
        self.add_call(head[1], self._convert(body))
        self.commit()

    def _convert(self, body: str) -> str:
        """{city:<escape>Paris<escape>,days:2} as JSON. Raises Malformed."""
        quote = regex.escape(self.markers[2])
        token = regex.compile(
            rf"\s*+(?:{quote}(?P<string>.*?){quote}|(?P<sign>[{{}}\[\],:])|(?P<word>[^{{}}\[\],:]++))", regex.DOTALL
        )
        pieces = []
        tokens = list(token.finditer(body.strip()))
        for found, after in zip(tokens, [*tokens[1:], None], strict=True):
            is_key = after is not None and after["sign"] == ":"
            pieces.append(_convert_token(found, is_key=is_key))
        arguments = load_json("".join(pieces))
        if not isinstance(arguments, dict):
            raise Malformed
        return dump_json(arguments)


class GemmaParser(FunctionGemmaParser):
    """Gemma 4's spelling of the markers."""

    name = "gemma"
    markers = ("<|tool_call>", "<tool_call|>", '<|"|>')
    opening = regex.compile(r"<\|tool_call>\s*+(?=call:)")
    notation = _make_notation(*markers[1:])

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<|tool_call>" in template and "call:" in template


def _convert_token(found: Any, *, is_key: bool) -> str:
    if found["string"] is not None:
        return dump_json(found["string"])
    if found["sign"] is not None:
        return str(found["sign"])
    word = found["word"].strip()
    is_literal = not is_key and (word == "null" or isinstance(load_json(word), bool | int | float))
    return word if is_literal else dump_json(word)
