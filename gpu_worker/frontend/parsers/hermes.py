"""Tool calls as <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes, Qwen 2.5 and 3, SmolLM 3."""

from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape
from gpu_worker.frontend.parsers.json_calls import JsonCallReader
from gpu_worker.frontend.parsers.json_text import dump_json
from gpu_worker.frontend.parsers.reader import Reading

_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"


class HermesParser(JsonCallReader):
    """One block for each call."""

    name = "hermes"
    markers = (_OPEN, _CLOSE)
    opening = regex.compile(_OPEN)
    _close = regex.compile(_CLOSE)

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        """Whether a chat template speaks this format (and not one of the XML ones of the same tags)."""
        is_other = "<function=" in template or "<arg_key>" in template
        return _OPEN in template and not is_other and '"arguments"' in template.replace("\\", "")

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        head = f'{_OPEN}\n{{"name": {dump_json(name)}, "arguments": '
        return CallShape(before=head, after="}\n" + _CLOSE, trigger=_OPEN, separator="\n")

    def read_block(self) -> Reading[None]:
        yield from self.read_json_call()
        yield from self.match(self._close)
