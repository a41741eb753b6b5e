"""Tool calls as <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>: Qwen3-Coder, 3.5."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape, Notation
from gpu_worker.frontend.parsers.reader import Reading
from gpu_worker.frontend.parsers.text_arguments import TextArgumentReader


class QwenXmlParser(TextArgumentReader):
    """One block for each call. The outer tag, which models at times forget, may be missing."""

    name = "qwen_xml"
    markers = ("<tool_call>", "</tool_call>")
    opening = regex.compile(r"<tool_call>\s*+<function=|<function=")
    _head = regex.compile(r"([^<>\n]++)>")
    _next = regex.compile(r"\s*+(?:<parameter=([^<>\n]++)>|</function>)")
    _close = regex.compile(r"\s*+</tool_call>")

    notation = Notation(
        before_key='"<parameter="',
        after_key='">\\n"',
        after_value='"\\n"',
        separator="",
        key=r"[^<>\n]+",
        values="text",
        closing="\n</parameter>",
        excluded=("</parameter>",),
    )

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<function=" in template and "<parameter=" in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        before, after = f"<tool_call>\n<function={name}>\n", "</function>\n</tool_call>"
        return CallShape(before, after, trigger="<function=", separator="\n")

    def read_block(self) -> Reading[None]:
        head = yield from self.match(self._head)
        self.start_call(head[1].strip())
        while (part := (yield from self.match(self._next)))[1] is not None:
            yield from self.read_argument(part[1].strip(), "</parameter>", trims_newline=True)
        self.finish_arguments()
        yield from self.maybe(self._close)
