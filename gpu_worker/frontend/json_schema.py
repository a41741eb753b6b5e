"""JSON schemas (draft 2020-12) as they are enforced: what cannot be is found by path, what is left open is closed.

Knows which values of which keywords are schemas again; what the keywords mean, the grammar library knows.
"""

from collections.abc import Callable, Iterator
from typing import Any

Schema = dict[str, Any]

_NAMED_SCHEMAS = frozenset(["properties", "patternProperties", "$defs", "definitions"])
_LISTED_SCHEMAS = frozenset(["anyOf", "oneOf", "allOf", "prefixItems"])
_SCHEMAS = frozenset(["items", "additionalItems", "additionalProperties"])
# Keywords that restrict an instance in ways that no grammar here expresses.
UNSUPPORTED = frozenset(
    [
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
        *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
        *("$dynamicRef", "$recursiveRef", "x-guidance"),
    ]
)
# Keywords that restrict nothing.
NOTES = frozenset(
    [
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("$schema", "$id", "$comment", "$defs", "definitions"),
    ]
)
_OPEN = frozenset(["additionalProperties", "patternProperties", "minProperties", "maxProperties"])
_COMBINED = frozenset(["$ref", "anyOf", "oneOf"])
_OF_OBJECTS = _OPEN | {"properties", "required"}


def find_unsupported(schema: Any) -> str | None:
    """Where the first keyword stands that cannot be enforced, such as `properties.tags.uniqueItems`."""
    for path, node in _walk(schema, ""):
        if unsupported := sorted(UNSUPPORTED & node.keys()):
            return f"{path}{unsupported[0]}"
    return None


def close_objects(schema: Any) -> Any:
    """The same schema, in which objects that list their properties and say nothing of others have no others.

    Every answer that it allows is one that the original allows; a model cannot go on inventing properties. A schema
    that combines objects (allOf, or a reference beside properties) is returned as it is: closing one part would
    forbid what the other one asks for.
    """
    if any("allOf" in node or (_COMBINED & node.keys() and _OF_OBJECTS & node.keys()) for _, node in _walk(schema, "")):
        return schema
    return _rebuild(schema, _close)


def follow_reference(reference: str, root: Schema) -> Any:
    """A part of the schema by its pointer (#/$defs/City); None where there is none."""
    found: Any = root
    for key in reference.removeprefix("#/").split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def list_values(schema: Schema) -> list[Any] | None:
    """What `enum` or `const` allow, by which the other keywords of the schema go too."""
    if isinstance(values := schema.get("enum"), list):
        return values
    return [schema["const"]] if "const" in schema else None


def is_plain(schema: Schema) -> bool:
    """Whether it says no more than which types may stand."""
    if schema.keys() - NOTES - {"type", "anyOf", "oneOf"}:
        return False
    choices = schema.get("anyOf") or schema.get("oneOf") or []
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and not choice.keys() - NOTES - {"type"} for choice in choices
    )


def guess_type(schema: Schema) -> str | None:
    """Of a schema that names none but speaks of one."""
    return "object" if "properties" in schema else "array" if "items" in schema else None


def _close(node: Schema) -> Schema:
    properties, required = node.get("properties"), node.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or _OPEN & node.keys():
        return node
    is_listed = all(isinstance(name, str) and name in properties for name in required)
    return {**node, "additionalProperties": False} if is_listed else node


def _walk(schema: Any, path: str) -> Iterator[tuple[str, Schema]]:
    """Every object schema within, with the path that leads to its keywords. Recursion ends where JSON's own does."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for keyword, value in schema.items():
        if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            for name, inner in value.items():
                yield from _walk(inner, f"{path}{keyword}.{name}.")
        elif keyword in _LISTED_SCHEMAS and isinstance(value, list):
            for index, inner in enumerate(value):
                yield from _walk(inner, f"{path}{keyword}[{index}].")
        elif keyword in _SCHEMAS:
            yield from _walk(value, f"{path}{keyword}.")


def _rebuild(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """A copy with every object schema within changed."""
    if not isinstance(schema, dict):
        return schema
    return change({keyword: _rebuild_value(keyword, value, change) for keyword, value in schema.items()})


def _rebuild_value(keyword: str, value: Any, change: Callable[[Schema], Schema]) -> Any:
    if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
        return {name: _rebuild(inner, change) for name, inner in value.items()}
    if keyword in _LISTED_SCHEMAS and isinstance(value, list):
        return [_rebuild(inner, change) for inner in value]
    return _rebuild(value, change) if keyword in _SCHEMAS else value
