"""Tool calls as [TOOL_CALLS][{"name": ..., "arguments": ...}], and newer as [TOOL_CALLS]NAME[ARGS]{...}: Mistral."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.json_calls import JsonCallReader
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

    def read_block(self) -> Reading[None]:
        if (yield from self.maybe(self._list)) is not None:
            yield from self.read_json_list()
            return
        head = yield from self.match(self._head)
        self.start_call(head[1])
        yield from self.stream_object()
