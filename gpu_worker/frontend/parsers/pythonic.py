"""Tool calls as a list of Python calls, [f(a=1), g()]: Llama 3.2 and 4 as their guides say, OLMo 3, LFM2."""

from collections.abc import Collection
from typing import Any

import regex

from gpu_worker.frontend.parsers.base import CallShape, Notation
from gpu_worker.frontend.parsers.json_text import dump_json
from gpu_worker.frontend.parsers.python_text import PythonScanner, read_python_call
from gpu_worker.frontend.parsers.reader import CallReader, Malformed, Reading

_NEXT = regex.compile(r"\s*+([,\]])")


class PythonicParser(CallReader):
    """A list counts at the beginning of an answer only. Each call comes in one piece."""

    name = "pythonic"
    markers: tuple[str, ...] = ("<|python_start|>", "<|python_end|>")
    opening = regex.compile(r"<\|python_start\|>\s*+\[(?=\s*+[A-Za-z_])")
    opening_at_start: Any = regex.compile(r"\s*+(?:<\|python_start\|>\s*+)?\[(?=\s*+[A-Za-z_][\w.]*+\()")
    _head = regex.compile(r"\s*+(?=[A-Za-z_][\w.]*+\()")
    _name = regex.compile(r"[\w.]++(?=\()")
    _close: Any = regex.compile(r"\s*+<\|python_end\|>")

    # JSON, true, false and null with it, is read as Python.
    notation = Notation(
        before_key="", after_key='"="', after_value="", separator='", "', key=r"[A-Za-z_]\w*", values="json"
    )

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "func_name1(params_name1=" in template

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        return CallShape(before=f"{name}(", after=")", separator=", ", first="[", last="]")

    def read_block(self) -> Reading[None]:
        while True:
            yield from self.match(self._head)
            self.add_call(*(yield from self._read_call()))
            self.commit()
            separator = yield from self.match(_NEXT)
            self.commit()
            if separator[1] == "]":
                break
        yield from self.maybe(self._close)

    def _read_call(self) -> Reading[tuple[str, str]]:
        name = (yield from self.match(self._name))[0]
        text = name + (yield from self.read_scanned(PythonScanner()))
        try:
            return name, dump_json(read_python_call(text)[1])
        except (ValueError, RecursionError) as error:
            raise Malformed from error


class LfmParser(PythonicParser):
    """The same between markers, anywhere in the answer."""

    name = "lfm"
    markers = ("<|tool_call_start|>", "<|tool_call_end|>")
    opening = regex.compile(r"<\|tool_call_start\|>\s*+\[(?=\s*+[A-Za-z_])")
    opening_at_start = None
    _close = regex.compile(r"\s*+<\|tool_call_end\|>")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return "<|tool_call_start|>" in template or ("<|tool_list_start|>" in template)

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        opening, closing = LfmParser.markers
        shape = PythonicParser.call_shape(name, template)
        return shape._replace(trigger=opening, first=f"{opening}[", last=f"]{closing}")

    @staticmethod
    def write_calls(calls: list[tuple[str, Any]]) -> str:
        """LFM2's template knows no calls."""
        written = ", ".join(f"{name}({_write_keywords(arguments)})" for name, arguments in calls)
        return f"<|tool_call_start|>[{written}]<|tool_call_end|>"


def _write_keywords(arguments: Any) -> str:
    """Arguments that are no object stay as they are: text that the model once wrote."""
    if not isinstance(arguments, dict):
        return str(arguments)
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
