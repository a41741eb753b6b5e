"""Tool calls as <minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>: MiniMax M2."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape, Notation
from gpu_worker.frontend.parsers.reader import Reading
from gpu_worker.frontend.parsers.text_arguments import TextArgumentReader


class MinimaxParser(TextArgumentReader):
    """All calls in one block."""

    name = "minimax"
    markers = ("<minimax:tool_call>", "</minimax:tool_call>")
    opening = regex.compile(r"<minimax:tool_call>\s*+(?=<invoke)")
    _head = regex.compile(r'\s*+(?:<invoke name="([^"<>]++)">|</minimax:tool_call>)')
    _next = regex.compile(r'\s*+(?:<parameter name="([^"<>]++)">|</invoke>)')

    notation = Notation(
        before_key='"<parameter name=\\""',
        after_key='"\\">"',
        after_value='"\\n"?',
        separator="",
        key=r'[^"<>\n]+',
        values="text",
        closing="</parameter>",
        excluded=("</parameter>",),
        trims_newline=True,
    )

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "minimax:tool_call" in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        opening, closing = MinimaxParser.markers
        before, after = f'<invoke name="{name}">', "</invoke>\n"
        return CallShape(before, after, trigger=opening, first=f"{opening}\n", last=closing, heading='"\\n"?')

    def read_block(self) -> Reading[None]:
        while (head := (yield from self.match(self._head)))[1] is not None:
            self.start_call(head[1])
            while (part := (yield from self.match(self._next)))[1] is not None:
                yield from self.read_argument(part[1], "</parameter>", trims_newline=True)
            self.finish_arguments()
