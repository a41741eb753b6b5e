"""Arguments that a model writes as plain text between tags, made JSON by the types that the tool's schema declares."""

from collections.abc import Iterable
from typing import Any

import regex

from gpu_worker.frontend.json_schema import follow_reference
from gpu_worker.frontend.parsers.json_text import ObjectScanner, dump_json, load_json
from gpu_worker.frontend.parsers.python_text import read_python_value
from gpu_worker.frontend.parsers.reader import CallReader, Reading

JSON_TYPES: dict[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}
_NEWLINE = regex.compile("\n")
_MAX_REFERENCES = 8


class TextArgumentReader(CallReader):
    """For formats with one tag for each argument. Strings are streamed, other values come whole."""

    _function = ""
    _num_arguments = 0

    def start_call(self, name: str) -> None:
        super().start_call(name)
        self._function, self._num_arguments = name, 0

    def read_argument(self, key: str, closing: str, *, trims_newline: bool = False) -> Reading[None]:
        """The value up to its closing tag, without the one line break at each end that some formats put there."""
        self.add_arguments(f"{', ' if self._num_arguments else '{'}{dump_json(key)}: ")
        self._num_arguments += 1
        types = find_types(self.tools, self._function, key)
        if types == {"string"}:
            yield from self._stream_string(closing, trims_newline)
            return
        text = yield from self.read_until(closing)
        while _is_within_string(text):
            text += closing + (yield from self.read_until(closing))
        if trims_newline:
            text = text.removeprefix("\n").removesuffix("\n")
        self.add_arguments(dump_json(convert_text(text, types)))

    def finish_arguments(self) -> None:
        """The call has no more of them."""
        self.add_arguments("}" if self._num_arguments else "{}")
        self.finish_call()

    def _stream_string(self, closing: str, trims_newline: bool) -> Reading[None]:
        self.add_arguments('"')
        if trims_newline:
            yield from self.maybe(_NEWLINE)
        held = ""
        is_last = False
        while not is_last:
            text, is_last = yield from self.read_part(closing)
            if is_last:
                break
            text = held + text
            held = "\n" if trims_newline and text.endswith("\n") else ""
            self.add_arguments(dump_json(text.removesuffix(held))[1:-1])
        self.add_arguments('"')


def find_types(tools: Iterable[dict[str, Any]], function: str, parameter: str) -> frozenset[str]:
    """JSON types that the schema allows for a parameter; none where it does not say."""
    for tool in tools:
        declared = tool.get("function", {})
        if declared.get("name") == function:
            schema = declared.get("parameters") or {}
            properties = schema.get("properties")
            found = properties.get(parameter) if isinstance(properties, dict) else None
            return frozenset(_list_types(found, schema, _MAX_REFERENCES) or ())
    return frozenset()


def convert_text(text: str, types: frozenset[str]) -> Any:
    """The value that `text` stands for: of one of the types, else the text itself. Without types: JSON if it is."""
    value = _read_value(text)
    if isinstance(value, str):
        return text
    if "integer" in types and isinstance(value, float) and value.is_integer() and "number" not in types:
        value = int(value)
    return value if not types or types.intersection(JSON_TYPES[type(value)]) else text


def _list_types(schema: Any, root: dict[str, Any], num_references: int) -> set[str] | None:
    """None where anything may stand."""
    if not isinstance(schema, dict):
        return None
    if isinstance(reference := schema.get("$ref"), str):
        target = follow_reference(reference, root)
        return _list_types(target, root, num_references - 1) if num_references else None
    declared = schema.get("type")
    if isinstance(declared, str):
        return {declared} | ({"null"} if schema.get("nullable") is True else set())
    if isinstance(declared, list):
        return {name for name in declared if isinstance(name, str)}
    if isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        return {JSON_TYPES[type(value)][0] for value in values if type(value) in JSON_TYPES}
    for name in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(name), list) and choices:
            found = [types for choice in choices if (types := _list_types(choice, root, num_references)) is not None]
            return {name for types in found for name in types} if len(found) == len(choices) else None
    return None


def _is_within_string(text: str) -> bool:
    """Whether a list or an object has been cut within one of its strings, which then holds the tag that cut it."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    scanner = ObjectScanner()
    scanner.scan(text.lstrip())
    return scanner.is_in_string


def _read_value(text: str) -> Any:
    """What it is in JSON, or as models write it that learned from Python: True, None, {'a': 1}. Else the text."""
    value = load_json(text)
    if value is not None or text.strip() == "null":
        return value
    try:
        value = read_python_value(text)
        dump_json(value)
    except (ValueError, RecursionError):
        return text
    return value
