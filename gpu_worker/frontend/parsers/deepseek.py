"""Tool calls between markers, with a header and JSON arguments each: DeepSeek V3, R1 and V3.1, and Kimi K2."""

from collections.abc import Collection
from typing import Any

import regex

from gpu_worker.frontend.parsers.base import CallShape
from gpu_worker.frontend.parsers.json_text import write_arguments
from gpu_worker.frontend.parsers.reader import CallReader, Reading


class SectionParser(CallReader):
    """All calls in one block; arguments are streamed. `_head` names the function and ends before the arguments."""

    _head: Any
    _tail: Any
    _close: Any

    def read_block(self) -> Reading[None]:
        while True:
            head = yield from self.match(self._head)
            self.start_call(head["name"])
            yield from self.stream_object()
            yield from self.match(self._tail)
            self.commit()
            if (yield from self.maybe(self._close)) is not None:
                return


class DeepseekParser(SectionParser):
    """V3 and R1 say that a call is of a function and fence its arguments as code; V3.1 does neither."""

    name = "deepseek"
    markers = (
        "<｜tool▁calls▁begin｜>",  # noqa: RUF001 - DeepSeek writes its tokens with fullwidth bars
        "<｜tool▁call▁begin｜>",  # noqa: RUF001
        "<｜tool▁sep｜>",  # noqa: RUF001
        "<｜tool▁call▁end｜>",  # noqa: RUF001
        "<｜tool▁calls▁end｜>",  # noqa: RUF001
    )
    opening = regex.compile(markers[0])
    _head = regex.compile(
        rf"\s*+{markers[1]}(?:function{markers[2]}(?P<name>[\w.:/-]++)\s*+```(?:json)?|(?P<name>[\w.:/-]++){markers[2]})"
        r"\s*+(?=\{)"
    )
    _tail = regex.compile(rf"\s*+(?:```\s*+)?{markers[3]}")
    _close = regex.compile(rf"\s*+{markers[4]}")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return DeepseekParser.markers[1] in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        """With a fence where the template has one."""
        begin, call, separator, call_end, end = DeepseekParser.markers
        if "```json" in template:
            before, after = f"{call}function{separator}{name}\n```json\n", f"\n```{call_end}"
            return CallShape(before, after, trigger=begin, separator="\n", first=begin, last=end)
        return CallShape(f"{call}{name}{separator}", call_end, trigger=begin, first=begin, last=end)

    @staticmethod
    def write_calls(calls: list[tuple[str, Any]]) -> str:
        """As V3 does: its template shows a call only beside a null, which transformers takes out."""
        begin, call, separator, call_end, end = DeepseekParser.markers
        written = (
            f"{call}function{separator}{name}\n```json\n{write_arguments(arguments)}\n```{call_end}"
            for name, arguments in calls
        )
        return begin + "\n".join(written) + end


class KimiParser(SectionParser):
    """The header is an id that holds the name: functions.get_weather:0."""

    name = "kimi"
    markers = (
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    )
    opening = regex.compile(r"<\|tool_calls_section_begin\|>")
    _head = regex.compile(
        r"\s*+<\|tool_call_begin\|>\s*+(?:functions\.)?+(?P<name>[\w./-]++)(?::\d++)?\s*+"
        r"<\|tool_call_argument_begin\|>\s*+(?=\{)"
    )
    _tail = regex.compile(r"\s*+<\|tool_call_end\|>")
    _close = regex.compile(r"\s*+<\|tool_calls_section_end\|>")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<|tool_calls_section_begin|>" in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        """The number of a call goes on from those before it in the conversation, which is the model's to count."""
        begin, call, arguments, call_end, end = KimiParser.markers
        return CallShape(
            f"{call}functions.{name}:",
            call_end,
            trigger=begin,
            first=begin,
            last=end,
            heading=f'/[0-9]{{1,3}}/ "{arguments}"',
            sample=f"{call}functions.{name}:0{arguments}",
        )
