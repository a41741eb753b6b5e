"""Tool calls as JSON objects with a name and arguments: what the formats share that write them so."""

from typing import Any, TypeGuard

import regex

from gpu_worker.frontend.parsers.json_text import dump_json, is_encodable, load_json
from gpu_worker.frontend.parsers.reader import CallReader, Malformed, Reading

# The order most models were trained on: with the name known first, arguments can be streamed.
_HEAD = regex.compile(
    r'\s*+\{\s*+"name"\s*+:\s*+("(?:[^"\\]|\\.)++")\s*+,\s*+"(?:arguments|parameters)"\s*+:\s*+(?=\{)'
)
_BEFORE_OBJECT = regex.compile(r"\s*+(?=\{)")
# Further keys behind the arguments, an id for one.
_REST = regex.compile(r'(?:\s*+,\s*+"(?:[^"\\]|\\.)*+"\s*+:\s*+(?:"(?:[^"\\]|\\.)*+"|[^",{}\[\]]++))++\s*+\}')
_LIST_OPEN = regex.compile(r"\s*+\[")
_LIST_NEXT = regex.compile(r"\s*+([,\]])")


class JsonCallReader(CallReader):
    """Reads such objects. Arguments are streamed; with another order of keys a call comes in one piece."""

    needs_arguments = False  # whether an object without arguments is no call, where any JSON may stand

    def read_json_call(self) -> Reading[None]:
        """One object. A brace that is missing or doubled at its end is forgiven. Raises Malformed."""
        head = yield from self.maybe(_HEAD)
        name = load_json(head[1]) if head is not None else None
        if _is_name(name):
            self.start_call(name)
            yield from self.stream_object()
            yield from self.maybe(_REST)
            yield from self.skip(" \t\r\n}")
            return
        if head is None:
            yield from self.match(_BEFORE_OBJECT)
            call = parse_call((yield from self.read_object()), needs_arguments=self.needs_arguments)
            if call is not None:
                self.add_call(*call)
                yield from self.skip(" \t\r\n}")
                return
        raise Malformed

    def read_json_list(self) -> Reading[None]:
        """One or more objects in brackets. Raises Malformed."""
        yield from self.match(_LIST_OPEN)
        while True:
            yield from self.read_json_call()
            separator = yield from self.match(_LIST_NEXT)
            self.commit()
            if separator[1] == "]":
                return


def parse_call(text: str, *, needs_arguments: bool = False) -> tuple[str, str] | None:
    """Name and arguments (JSON text of an object) of a complete call, or None if it is none."""
    call = load_json(text)
    if not isinstance(call, dict) or not _is_name(name := call.get("name")):
        return None
    arguments: Any = call.get("arguments", call.get("parameters"))
    if arguments is None:
        return None if needs_arguments else (name, "{}")
    if isinstance(arguments, str) and isinstance(load_json(arguments), dict):
        return name, arguments
    return (name, dump_json(arguments)) if isinstance(arguments, dict) else None


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value) and is_encodable(value)
