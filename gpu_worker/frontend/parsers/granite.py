"""Tool calls as <|tool_call|>[{"name": ..., "arguments": {...}}]: Granite 3, and Phi-4-mini (functools[...] too)."""

from collections.abc import Collection
from typing import Any

import regex

from gpu_worker.frontend.parsers.base import CallShape
from gpu_worker.frontend.parsers.json_calls import JsonCallReader
from gpu_worker.frontend.parsers.json_text import dump_json
from gpu_worker.frontend.parsers.reader import Reading


class GraniteParser(JsonCallReader):
    """A list of calls, in Granite's smaller models at times a single one."""

    name = "granite"
    markers = ("<|tool_call|>", "<|/tool_call|>")
    opening = regex.compile(r"<\|tool_call\|>|functools(?=\[)")
    _list = regex.compile(r"\s*+(?=\[)")
    _close = regex.compile(r"\s*+<\|/tool_call\|>")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<|tool_call|>" in template or ("<|tool|>" in template and "<|tool_call|>" in tokens)

    @staticmethod
    def write_calls(calls: list[tuple[str, Any]]) -> str:
        """As Phi-4-mini writes them: its template knows no calls."""
        text = dump_json([{"name": name, "arguments": arguments} for name, arguments in calls])
        return f"<|tool_call|>{text}<|/tool_call|>"

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        head = f'{{"name": {dump_json(name)}, "arguments": '
        marker = "<|tool_call|>"
        return CallShape(before=head, after="}", trigger=marker, separator=", ", first=f"{marker}[", last="]")

    def read_block(self) -> Reading[None]:
        if (yield from self.maybe(self._list)) is not None:
            yield from self.read_json_list()
        else:
            yield from self.read_json_call()
        yield from self.maybe(self._close)
