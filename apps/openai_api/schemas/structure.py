"""The fields that ask for a form of the answer: OpenAI's `response_format` and vLLM's and TGI's names for the same.

All become one `Structure`, which the worker enforces. Schemas travel as the client's own JSON text, so that the order
of properties and numbers of any size survive. Knows no grammar: whether a schema can be enforced, the worker says.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.fields import SamplingFields
from gpu_worker.protocol import Structure

NULL = Raw(b"null")
MAX_CHARS = 256 * 1024
Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_CHARS)]
Choices = Annotated[list[str], Meta(min_length=1, max_length=4096)]


def make_null() -> Raw:
    """The default of a field that is kept as JSON text."""
    return NULL  # by a factory: the OpenAPI document cannot show JSON text as a default


class JsonSchema(Struct, frozen=True):
    """OpenAI's wrapper of a schema. It is enforced with and without `strict`."""

    name: str | None = None
    description: str | None = None
    schema: Raw = msgspec.field(default_factory=make_null)
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True):
    """text, json_object, json_schema; and huggingface_hub's json_object, json and regex with a `value`."""

    type: str
    json_schema: JsonSchema | None = None
    value: Raw = msgspec.field(default_factory=make_null)
    schema: Raw = msgspec.field(
        default_factory=make_null
    )  # llama.cpp's place for json_object's, the Responses API's for json_schema's
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class StructuredOutputs(Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's object: one of its fields is given."""

    json: Raw = msgspec.field(default_factory=make_null)
    regex: Pattern | None = None
    choice: Choices | None = None
    grammar: Pattern | None = None
    json_object: bool | None = None


class StructureFields(SamplingFields, frozen=True, kw_only=True):
    """At most one of these may ask for anything."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Raw = msgspec.field(default_factory=make_null)
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    guided_grammar: Pattern | None = None

    def to_structure(self) -> Structure | None:
        """Raises InvalidRequest or UnsupportedParameter naming the field."""
        asked = [read_response_format(self.response_format, "response_format")] if self.response_format else []
        outputs = self.structured_outputs or StructuredOutputs()
        asked += _read_values("structured_outputs.", outputs.json, outputs.regex, outputs.choice, outputs.grammar)
        if outputs.json_object:
            asked.append(Structure("json_object", param="structured_outputs.json_object"))
        asked += _read_values("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)
        structures = [structure for structure in asked if structure is not None]
        if len(structures) > 1:
            first, second = structures[0].param, structures[1].param
            raise InvalidRequest(f"'{second}' cannot be combined with '{first}'.", param=second)
        return structures[0] if structures else None


def read_response_format(given: ResponseFormat, param: str) -> Structure | None:
    """None for plain text. Raises InvalidRequest or UnsupportedParameter."""
    match given.type:
        case "text":
            return None
        case "json_object" | "json":
            schema = given.value if given.value != NULL else given.schema
            if schema != NULL:
                return Structure("json_schema", _read_schema(schema, param), param)
            if given.type == "json_object":
                return Structure("json_object", param=param)
        case "json_schema":
            schema = given.json_schema.schema if given.json_schema else given.schema
            if schema != NULL:
                return Structure("json_schema", _read_schema(schema, param), param)
            raise InvalidRequest(f"'{param}.json_schema.schema' is required.", param=f"{param}.json_schema.schema")
        case "regex":
            if isinstance(value := msgspec.json.decode(given.value), str) and value:
                return Structure("regex", value, param)
        case _:
            raise UnsupportedParameter(
                f'\'{param}.type\' can be "text", "json_object", "json_schema" or "regex" here.',
                param=f"{param}.type",
            )
    raise InvalidRequest(f"'{param}.value' is required with the type \"{given.type}\".", param=f"{param}.value")


def _read_values(
    prefix: str, schema: Raw, regex: str | None, choices: list[str] | None, grammar: str | None
) -> list[Structure | None]:
    values: list[Structure | None] = []
    if schema != NULL:
        values.append(Structure("json_schema", _read_schema(schema, prefix + "json"), prefix + "json"))
    if regex is not None:
        values.append(Structure("regex", regex, prefix + "regex"))
    if choices is not None:
        values.append(Structure("choice", msgspec.json.encode(choices).decode(), prefix + "choice"))
    if grammar is not None:
        values.append(Structure("grammar", grammar, prefix + "grammar"))
    return values


def _read_schema(raw: Raw, param: str) -> str:
    """The schema's JSON text. vLLM's clients may send it as a string that holds it."""
    text = bytes(raw).decode()
    if text.startswith('"'):
        text = msgspec.json.decode(raw, type=str)
    if len(text) > MAX_CHARS:
        raise InvalidRequest(f"'{param}' is longer than {MAX_CHARS} characters.", param=param)
    _check_object(text, param)
    return text


def _check_object(text: str, param: str) -> None:
    try:
        msgspec.json.decode(text, type=dict[str, Any] | bool)
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidRequest(f"'{param}' must be a JSON schema: an object or a boolean.", param=param) from None
