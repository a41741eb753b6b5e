"""One part of a grammar: a response format or the arguments of a tool, checked for what its library would not refuse.

Knows no vocabulary, and compiles nothing.
"""

import json
import re
from typing import Any, NamedTuple

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from gpu_worker.frontend.errors import check_text, invalid, unsupported
from gpu_worker.frontend.json_schema import close_objects, find_unsupported
from gpu_worker.protocol import Structure

# JSON on one line, with at most one blank after a comma or a colon: a model cannot lose itself in indentation.
_LAYOUT = {"whitespace_flexible": False, "item_separator": ",[ ]?", "key_separator": ":[ ]?"}
_MAX_CHOICES = 4096
# Options of a Lark rule that change how tokens are drawn, or take tokens back that a client has seen.
_UNSUPPORTED_OPTION = re.compile(r"\[[^\]\n]*\b(temperature|max_tokens|stop|stop_capture)\b\s*=")


class Part(NamedTuple):
    """A named grammar in llguidance's JSON form, and the field of the request that it comes from."""

    grammar: dict[str, Any]
    param: str


def make_part(structure: Structure) -> Part:
    """Raises RequestRejected naming the field."""
    param = structure.param
    match structure.kind:
        case "json_object":
            return make_schema_part({"type": "object"}, param)
        case "json_schema":
            return make_schema_part(_load_json(structure.value, param), param)
        case "regex":
            pattern = regex_to_lark(_check_value(structure), "dw")  # as in JavaScript: digits and words are ASCII
            return Part({"lark_grammar": f"start: /{pattern}/"}, param)
        case "choice":
            return Part({"lark_grammar": _join_choices(_load_json(_check_value(structure), param), param)}, param)
        case "grammar":
            return Part({"lark_grammar": _read_grammar(_check_value(structure), param)}, param)


def make_arguments_part(tool: dict[str, Any], param: str, *, is_free: bool) -> Part:
    """The arguments of a tool: an object that its schema allows, and with `is_free` any object."""
    schema = tool["function"].get("parameters")
    if is_free or not schema:
        return make_schema_part({"type": "object"}, param)
    kind = schema.get("type", "object")
    if kind != "object" and (not isinstance(kind, list) or "object" not in kind):
        raise invalid(f"'{param}' must describe an object.", param)
    return make_schema_part({**schema, "type": "object"}, param)


def is_strict(tool: dict[str, Any]) -> bool:
    """Whether a call of this tool is to have right arguments whenever the model makes one."""
    return tool["function"].get("strict") is True


def make_schema_part(schema: Any, param: str) -> Part:
    """JSON of this schema. Raises RequestRejected."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise invalid(f"'{param}' must be a JSON schema: an object or a boolean.", param)
    try:
        if path := find_unsupported(schema):
            raise unsupported(f"'{path}' in '{param}' is a keyword that cannot be enforced here.", param)
        schema = close_objects(schema)
    except RecursionError as error:
        raise invalid(f"'{param}' is nested too deeply.", param) from error
    return Part({"json_schema": {**schema, "x-guidance": _LAYOUT}}, param)


def _load_json(text: str, param: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"'{param}' is not valid JSON, or nested too deeply.", param) from error


def _check_value(structure: Structure) -> str:
    """Raises RequestRejected on nothing at all, and on what is not Unicode."""
    if not structure.value:
        raise invalid(f"'{structure.param}' is empty.", structure.param)
    return check_text(structure.value, structure.param)


def _join_choices(choices: Any, param: str) -> str:
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise invalid(f"'{param}' must be a list of texts.", param)
    if not 1 <= len(choices) <= _MAX_CHOICES:
        raise invalid(f"'{param}' must have between 1 and {_MAX_CHOICES} choices.", param)
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def _read_grammar(text: str, param: str) -> str:
    """Lark as it is, GBNF (rules written with ::=) as Lark."""
    if option := _UNSUPPORTED_OPTION.search(text):
        raise unsupported(f"The rule option '{option[1]}' in '{param}' is not supported here.", param)
    if "::=" not in text:
        return text
    try:
        return any_to_lark(text)
    except Exception as error:  # a rule that is missing is a plain Exception of the converter's
        raise invalid(f"'{param}' is not a valid grammar: {error}", param) from error
