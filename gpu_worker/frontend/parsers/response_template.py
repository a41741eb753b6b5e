"""Parsers made of a tokenizer's own `response_template`, which transformers 5.23 reads: for formats not known here.

https://huggingface.co/docs/transformers/main/en/chat_response_parsing. Calls come in one piece each. transformers is
imported where it is used: the worker's server answers before that is done.
"""

import logging
from typing import Any, NamedTuple

from gpu_worker.frontend.parsers.json_text import dump_json, is_encodable
from gpu_worker.frontend.parsers.reader import CallReader, Malformed, Reading
from gpu_worker.frontend.parsers.text_arguments import convert_text, find_types
from gpu_worker.frontend.parsers.think import ThinkParser

logger = logging.getLogger(__name__)

NAME = "response_template"
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
# What the library raises on a text that does not fit, and on a template that does not fit the text.
_MISFITS = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class TemplateParsers(NamedTuple):
    """What a response template describes; None for what it does not."""

    reasoning: type[ThinkParser] | None = None
    tool_calls: type[CallReader] | None = None


def read_response_template(spec: Any) -> TemplateParsers:
    """The parsers of a template. One that transformers cannot read, or that has neither, gives none."""
    if not isinstance(spec, dict):
        return TemplateParsers()
    from transformers.utils.chat_parsing.response_templates import load_response_template

    try:
        fields = load_response_template(spec).fields
    except _MISFITS as error:
        logger.warning("the tokenizer's response template cannot be read: %s", error)
        return TemplateParsers()
    found = next((fields[name] for name in _REASONING_FIELDS if name in fields), None)
    return TemplateParsers(_build_reasoning(found), _build_tool_calls(fields.get("tool_calls")))


class ResponseTemplateParser(CallReader):
    """Reads the template's field tool_calls. `field` is set in a subclass for each model."""

    name = NAME
    field: Any

    def read_block(self) -> Reading[None]:
        from transformers.utils.chat_parsing.content_parsers import process_field

        captures = {key: value for key, value in self.opened.groupdict().items() if value is not None}
        body = yield from self._read_body()
        try:
            value = process_field(body, self.field, captures)
            calls = [self._read_call(call) for call in (value if isinstance(value, list) else [value])]
        except _MISFITS as error:
            raise Malformed from error
        for name, arguments in calls:
            self.add_call(name, arguments)

    def find_opening(self) -> Any:
        found = super().find_opening()
        is_pending = found is not None and not found.partial and self._can_grow(found, self.field.open_literals)
        return _Pending(found) if is_pending else found

    def _read_body(self) -> Reading[str]:
        start = self._at
        while True:
            closing = self.field.close_re
            found = closing.search(self._text, start, partial=not self._is_ended) if closing is not None else None
            if found is not None and not found.partial and not self._can_grow(found, self.field.close_literals):
                self._at = found.end()
                return self._text[start : found.start()]
            if closing is None and self._is_ended:
                self._at = len(self._text)
                return self._text[start:]
            yield from self._wait()

    def _can_grow(self, found: Any, literals: list[str] | None) -> bool:
        """Whether more text might lengthen a match: not that of a literal."""
        return literals is None and not self._is_ended and found.end() == len(self._text)

    def _read_call(self, call: Any) -> tuple[str, str]:
        function = call["function"]
        name, arguments = function["name"], function["arguments"]
        if isinstance(arguments, str):
            arguments = convert_text(arguments, frozenset(["object"]))
        if not isinstance(name, str) or not is_encodable(name) or not isinstance(arguments, dict):
            raise ValueError("not a call")
        if self.field.content != "json":
            arguments = {key: self._convert(name, key, value) for key, value in arguments.items()}
        return name, dump_json(arguments)

    def _convert(self, name: str, key: str, value: Any) -> Any:
        types = find_types(self.tools, name, key)
        return convert_text(value, types) if isinstance(value, str) and types != {"string"} else value


class _Pending:
    """A match that more text may lengthen: to be treated as a partial one."""

    partial = True

    def __init__(self, match: Any) -> None:
        self.start = match.start


def _build_reasoning(field: Any) -> type[ThinkParser] | None:
    if field is None or not field.open_literals or not field.close_literals:
        return None
    opening, closing = enclosure = field.open_literals[0], field.close_literals[0]
    values = {"name": NAME, "opening": opening, "closing": closing, "enclosure": enclosure}
    return type("TemplateThinkParser", (ThinkParser,), values | {"markers": (opening.strip(), closing.strip())})


def _build_tool_calls(field: Any) -> type[CallReader] | None:
    if field is None or field.open_re is None:
        return None
    return type("TemplateCallParser", (ResponseTemplateParser,), {"field": field, "opening": field.open_re})
