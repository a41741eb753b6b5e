"""Lark rules for the arguments of one tool, in formats that write them otherwise than as a JSON object.

What such a format cannot be held to is refused by the name of the tool's schema. Knows the notation of a format
(`parsers.base.Notation`) and JSON schemas; what JSON within it looks like, the grammar library knows.
"""

import re
from typing import Any, NamedTuple

from gpu_worker.frontend.errors import RequestRejected, invalid, unsupported
from gpu_worker.frontend.json_schema import NOTES, follow_reference, guess_type, is_plain, list_values
from gpu_worker.frontend.lark import ANY_TEXT, FORMATS, escape, exclude, join_choices, match, quote, search
from gpu_worker.frontend.parsers.base import Notation
from gpu_worker.frontend.parsers.json_text import dump_json
from gpu_worker.frontend.parsers.text_arguments import JSON_TYPES, convert_text, find_types
from gpu_worker.frontend.structure_parts import Part, make_schema_part

Schema = dict[str, Any]

_OF_OBJECTS = frozenset(["type", "properties", "required", "additionalProperties"])
_OF_STRINGS = frozenset(["type", "minLength", "maxLength", "pattern", "format"])
_OF_LISTS = frozenset(["type", "items", "minItems", "maxItems"])
_OF_VALUES = frozenset(["type", "enum", "const"])
_SCALARS = ("integer", "number", "boolean", "null")
_FREE_KEY = "/[A-Za-z_][A-Za-z0-9_]*/"
_ANYTHING = "anything"
_MAX_DEPTH = 64


class _Member(NamedTuple):
    key: str
    rule: str
    is_required: bool


class ArgumentRules:
    """The rules for one tool's arguments. `start` is the expression to use, after `write`."""

    def __init__(self, tool: Schema, notation: Notation, prefix: str, param: str) -> None:
        """`prefix` begins the names of all rules and parts; `param` is the field that has the tool's schema."""
        self.rules: list[str] = []
        self.parts: dict[str, Part] = {}
        self._tool = tool
        self._root: Schema = tool["function"].get("parameters") or {}
        self._notation = notation
        self._prefix = prefix
        self._param = param
        self._num_names = 0
        self._of_reference: dict[str, str] = {}

    def write(self, *, is_free: bool) -> str:
        """The expression for the arguments; with `is_free` for any. Raises RequestRejected."""
        schema = {} if is_free else self._root
        kind = schema.get("type", "object")
        if kind != "object" and (not isinstance(kind, list) or "object" not in kind):
            raise invalid(f"'{self._param}' must describe an object.", self._param)
        return self._write_members(schema, 0)

    # --- objects ---

    def _write_members(self, schema: Schema, depth: int) -> str:
        """Its properties in their order, and where it allows others, those behind them."""
        self._check_keywords(schema, _OF_OBJECTS)
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        others = schema.get("additionalProperties", "properties" not in schema)
        if not isinstance(properties, dict) or not isinstance(required, list) or not isinstance(others, bool):
            raise self._refuse("an object of this kind")
        if unknown := [name for name in required if not isinstance(name, str) or name not in properties]:
            raise self._refuse(f"the required property {unknown[0]!r}, which is not described,")
        members = [
            _Member(key, self._write_member(key, value, depth), key in required) for key, value in properties.items()
        ]
        rest = self._add_rule(self._write_free_member(list(properties))) if others else ""
        return self._join(members, rest)

    def _write_member(self, key: str, schema: Any, depth: int) -> str:
        if not re.fullmatch(self._notation.key, key) or key != key.strip():
            raise self._refuse(f"the property name {key!r}")
        notation = self._notation
        value = self._write_value(key, schema, depth)
        return self._add_rule(f"{notation.before_key} {quote(key)} {notation.after_key} {value} {notation.after_value}")

    def _write_free_member(self, taken: list[str]) -> str:
        notation = self._notation
        key = self._add_terminal(
            " & ".join([_FREE_KEY, *(f"~/{escape(name)}/" for name in taken if re.fullmatch(r"\w+", name))])
        )
        value = self._write_value("", {}, 0)
        return f"{notation.before_key} {key} {notation.after_key} {value} {notation.after_value}"

    def _join(self, members: list[_Member], rest: str) -> str:
        """A list in this order with separators only between what is there."""
        separator = self._notation.separator
        if not separator:
            listed = [member.rule if member.is_required else f"{member.rule}?" for member in members]
            return " ".join([*listed, f"{rest}*" if rest else ""]).strip() or '""'
        later = self._add_rule(f"({separator} {rest})*") if rest else ""
        first = f"({rest} {later})?" if rest else ""
        for member in reversed(members):
            begun = f"{member.rule} {later}"
            following = f"{separator} {member.rule}"
            if member.is_required:
                first, later = begun, self._add_rule(f"{following} {later}")
            else:
                first = f"({begun}) | ({first})" if first else f"({begun})?"
                later = self._add_rule(f"({following})? {later}")
            first = self._add_rule(first)
        return first or '""'

    # --- values ---

    def _write_value(self, key: str, schema: Any, depth: int) -> str:
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise self._refuse("a property of this kind")
        match self._notation.values:
            case "json":
                return self._write_json(schema)
            case "text":
                return self._write_bare(key, schema)
            case "marked":
                return self._write_marked(schema, depth)

    def _write_json(self, schema: Schema) -> str:
        named = {name: self._root[name] for name in ("$defs", "definitions") if name in self._root}
        return "@" + self._add_part(make_schema_part({**schema, **named}, self._param))

    def _write_bare(self, key: str, schema: Schema) -> str:
        """Texts without marks, as the parser tells them from other values: by the types that the schema allows."""
        closing = quote(self._notation.closing)
        types = find_types([self._tool], self._tool["function"]["name"], key) if key else frozenset()
        if types and "string" not in types:
            return f"{self._write_json(schema)} {closing}"
        node = self._resolve(schema)
        if values := list_values(node):
            self._check_keywords(node, _OF_VALUES)
            return self._write_values(values, types)
        if types == {"string"}:
            return self._write_text(self._find_string(node))
        if types == {"string", "null"}:
            return f"({self._write_text(self._find_string(node))} | {quote('null')} {closing})"
        if is_plain(node):
            return self._write_text({})
        raise self._refuse("a property that may be a text and something else")

    def _write_values(self, values: list[Any], types: frozenset[str]) -> str:
        """One of these, written so that the parser reads it back as what it is."""
        written = [value if isinstance(value, str) else dump_json(value) for value in values]
        for value, text in zip(values, written, strict=True):
            read = text if types == {"string"} else convert_text(text, types)
            if dump_json(read) != dump_json(value) or not text or self._cannot_hold(text):
                raise self._refuse(f"the value {value!r}")
        return f"{join_choices(list(map(quote, written)))} {quote(self._notation.closing)}"

    def _write_marked(self, schema: Schema, depth: int) -> str:
        """Texts between marks, lists and objects as the notation has them."""
        if depth > _MAX_DEPTH:
            raise self._refuse("so deep a nesting")
        if isinstance(reference := schema.get("$ref"), str):
            return self._write_reference(reference, schema, depth)
        if values := list_values(schema):
            self._check_keywords(schema, _OF_VALUES)
            return join_choices([self._write_marked_value(value, schema) for value in values])
        if isinstance(choices := schema.get("anyOf"), list) and choices:
            self._check_keywords(schema, frozenset(["anyOf"]))
            return join_choices([self._write_value("", choice, depth + 1) for choice in choices])
        kinds = self._read_kinds(schema)
        if kinds is None:
            self._check_keywords(schema, frozenset())
            return self._write_anything(depth)
        shared = {key: value for key, value in schema.items() if key not in NOTES}
        return join_choices([self._write_kind(kind, {**shared, "type": kind}, depth + 1) for kind in kinds])

    def _write_anything(self, depth: int) -> str:
        """One rule, which recurs: lists hold anything."""
        if _ANYTHING not in self._of_reference:
            name = self._of_reference[_ANYTHING] = self._reserve()
            kinds = ("string", *_SCALARS[1:], "array", "object")
            choices = [self._write_kind(kind, {"type": kind}, depth + 1) for kind in kinds]
            self.rules.append(f"{name}: {join_choices(choices)}")
        return self._of_reference[_ANYTHING]

    def _write_kind(self, kind: str, schema: Schema, depth: int) -> str:
        if kind == "string":
            return self._write_text(schema)
        if kind in _SCALARS:
            return "@" + self._add_part(make_schema_part(schema, self._param))
        if kind == "array":
            return f'"[" {self._write_list(schema, depth)} "]"'
        if kind == "object":
            return f'"{{" {self._write_members(schema, depth)} "}}"'
        raise invalid(f"'{self._param}' has a type that JSON has not: {kind!r}.", self._param)

    def _write_list(self, schema: Schema, depth: int) -> str:
        self._check_keywords(schema, _OF_LISTS)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if not isinstance(least, int) or not isinstance(most, int | None) or (most is not None and most < least):
            raise self._refuse("a list of this kind")
        item = self._write_value("", schema.get("items", {}), depth)
        if most == 0:
            return '""'
        more = f"{{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        items = f"{item} ({self._notation.separator} {item}){more}"
        return items if least else f"({items})?"

    def _write_reference(self, reference: str, schema: Schema, depth: int) -> str:
        self._check_keywords(schema, frozenset(["$ref"]))
        if reference not in self._of_reference:
            target = follow_reference(reference, self._root)
            if not isinstance(target, dict):
                raise self._refuse(f"the reference {reference!r}")
            name = self._of_reference[reference] = self._reserve()
            self.rules.append(f"{name}: {self._write_marked(target, depth + 1)}")
        return self._of_reference[reference]

    def _write_marked_value(self, value: Any, schema: Schema) -> str:
        kinds = self._read_kinds(schema)
        has_type = kinds is None or not set(kinds).isdisjoint(JSON_TYPES[type(value)])
        if not has_type or isinstance(value, list | dict) or (isinstance(value, str) and self._cannot_hold(value)):
            raise self._refuse(f"the value {value!r}")
        if isinstance(value, str):
            return f"{quote(self._notation.opening)} {quote(value + self._notation.closing)}"
        return quote(dump_json(value))

    def _write_text(self, schema: Schema) -> str:
        """A text of this schema with its marks: as long as nothing in it could be taken for the one that closes it."""
        self._check_keywords(schema, _OF_STRINGS)
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if not isinstance(least, int) or not isinstance(most, int | str):
            raise self._refuse("a text of this kind")
        forms = [f"/(?s:.{{{least},{most}}})/", exclude(self._notation.excluded)]
        if self._notation.trims_newline:
            forms += [f"~/\\n{ANY_TEXT}/", f"~/{ANY_TEXT}\\n/"]
        if isinstance(pattern := schema.get("pattern"), str):
            forms.append(search(pattern))
        if (named := schema.get("format")) is not None:
            if not isinstance(named, str) or named not in FORMATS:
                raise self._refuse(f"the format {named!r}")
            forms.append(match(FORMATS[named]))
        text = self._add_terminal(" & ".join(forms))
        name = self._reserve()
        self.rules.append(f"{name}[lazy]: {text} {quote(self._notation.closing)}")
        return f"{quote(self._notation.opening)} {name}"

    # --- schemas ---

    def _read_kinds(self, schema: Schema) -> list[str] | None:
        """The types that a value may have; None for any."""
        kinds = schema.get("type", guess_type(schema))
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
            raise invalid(f"'{self._param}' has a type that JSON has not: {kinds!r}.", self._param)
        return list(dict.fromkeys(kinds)) if kinds else None

    def _resolve(self, schema: Schema) -> Schema:
        for _ in range(_MAX_DEPTH):
            if not isinstance(reference := schema.get("$ref"), str):
                return schema
            target = follow_reference(reference, self._root)
            self._check_keywords(schema, frozenset(["$ref"]))
            if not isinstance(target, dict):
                break
            schema = target
        raise self._refuse("this reference")

    def _find_string(self, schema: Schema) -> Schema:
        """The part of a schema of texts, or of texts and null, that describes the text."""
        for keyword in ("anyOf", "oneOf"):
            if isinstance(choices := schema.get(keyword), list):
                self._check_keywords(schema, frozenset([keyword]))
                if not all(isinstance(choice, dict) for choice in choices):
                    raise self._refuse(f"'{keyword}' of this kind")
                texts = [self._find_string(self._resolve(choice)) for choice in choices if choice != {"type": "null"}]
                if len(texts) != 1:
                    raise self._refuse(f"'{keyword}' of several texts")
                return texts[0]
        return {key: value for key, value in schema.items() if key != "nullable"}

    def _check_keywords(self, schema: Schema, known: frozenset[str]) -> None:
        if unknown := sorted(schema.keys() - known - NOTES):
            raise self._refuse(f"the keyword '{unknown[0]}'")

    def _cannot_hold(self, text: str) -> bool:
        trimmed = self._notation.trims_newline and (text[:1] == "\n" or text[-1:] == "\n")
        return trimmed or any(mark in text for mark in self._notation.excluded)

    def _refuse(self, what: str) -> RequestRejected:
        message = f"'{self._param}': {what} cannot be enforced in the form of this model's tool calls."
        return unsupported(message, self._param)

    # --- names ---

    def _reserve(self) -> str:
        self._num_names += 1
        return f"{self._prefix}_{self._num_names}"

    def _add_rule(self, body: str) -> str:
        name = self._reserve()
        self.rules.append(f"{name}: {body}")
        return name

    def _add_terminal(self, body: str) -> str:
        name = self._reserve().upper()
        self.rules.append(f"{name}: {body}")
        return name

    def _add_part(self, part: Part) -> str:
        name = self._reserve()
        self.parts[name] = part
        return name
