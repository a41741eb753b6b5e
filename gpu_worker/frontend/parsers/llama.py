"""Tool calls as a bare {"name": ..., "parameters": {...}}, <|python_tag|> before it or not: Llama 3.1 to 4."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape
from gpu_worker.frontend.parsers.json_calls import JsonCallReader
from gpu_worker.frontend.parsers.json_text import dump_json
from gpu_worker.frontend.parsers.reader import Reading


class LlamaParser(JsonCallReader):
    """Bare objects count at the beginning of an answer only; several are separated by semicolons."""

    name = "llama"
    markers = ("<|python_tag|>",)
    needs_arguments = True
    opening = regex.compile(r"<\|python_tag\|>")
    opening_at_start = regex.compile(r"\s*+(?=\{)")
    _separator = regex.compile(r"\s*+;\s*+(?=\{)")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        plain = template.replace("\\", "")
        asks = '{"name": function name, "parameters"' in plain
        return asks or ('"parameters": ' in plain and "<|python_tag|>" in tokens)

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        return CallShape(before=f'{{"name": {dump_json(name)}, "parameters": ', after="}", separator="; ")

    def read_block(self) -> Reading[None]:
        while True:
            yield from self.read_json_call()
            if (yield from self.maybe(self._separator)) is None:
                return
