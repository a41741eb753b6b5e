"""Tool calls as <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>: GLM 4.5 and later."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape, Notation
from gpu_worker.frontend.parsers.reader import Reading
from gpu_worker.frontend.parsers.text_arguments import TextArgumentReader


class GlmParser(TextArgumentReader):
    """One block for each call."""

    name = "glm"
    markers = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    opening = regex.compile("<tool_call>")
    _head = regex.compile(r"\s*+([^\s<>{}]++)\s*+(?=<arg_key>|</tool_call>)")
    _next = regex.compile(r"\s*+(?:<arg_key>([^<>]++)</arg_key>\s*+<arg_value>|</tool_call>)")

    notation = Notation(
        before_key='"<arg_key>"',
        after_key='"</arg_key>" "\\n"? "<arg_value>"',
        after_value='"\\n"?',
        separator="",
        key=r"[^<>\n]+",
        values="text",
        closing="</arg_value>",
        excluded=("</arg_value>",),
    )

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<arg_key>" in template and "<arg_value>" in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        before, after = f"<tool_call>{name}", "</tool_call>"
        return CallShape(before, after, trigger="<tool_call>", separator="\n", heading='"\\n"?')

    def read_block(self) -> Reading[None]:
        head = yield from self.match(self._head)
        self.start_call(head[1])
        while (part := (yield from self.match(self._next)))[1] is not None:
            yield from self.read_argument(part[1].strip(), "</arg_value>")
        self.finish_arguments()
