"""Tool calls as [TOOL_CALLS][{"name": ..., "arguments": ...}], and newer as [TOOL_CALLS]NAME[ARGS]{...}: Mistral."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape
from gpu_worker.frontend.parsers.json_calls import JsonCallReader
from gpu_worker.frontend.parsers.json_text import dump_json
from gpu_worker.frontend.parsers.reader import Reading


class MistralParser(JsonCallReader):
    """A list in one block, or one block for each call."""

    name = "mistral"
    markers = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    opening = regex.compile(r"\[TOOL_CALLS\]")
    _list = regex.compile(r"\s*+(?=\[\s*+\{)")
    _head = regex.compile(r"\s*+([\w.:/-]++)\s*+(?:\[CALL_ID\][^\[\]{}]*+)?(?:\[ARGS\])?\s*+(?=\{)")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "[TOOL_CALLS]" in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        """The newer form where the template has its marker."""
        marker, arguments_marker, _ = MistralParser.markers
        if arguments_marker in template:
            return CallShape(before=f"{marker}{name}{arguments_marker}", trigger=marker)
        head = f'{{"name": {dump_json(name)}, "arguments": '
        blank = " " if f"{marker} [" in template else ""
        return CallShape(before=head, after="}", trigger=marker, separator=", ", first=f"{marker}{blank}[", last="]")

    def read_block(self) -> Reading[None]:
        if (yield from self.maybe(self._list)) is not None:
            yield from self.read_json_list()
            return
        head = yield from self.match(self._head)
        self.start_call(head[1])
        yield from self.stream_object()
