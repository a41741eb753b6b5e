"""The OpenAPI document of what drf-spectacular cannot see: the generating endpoints, from their msgspec structs."""

from typing import Any, get_args

import msgspec
from drf_spectacular.extensions import OpenApiAuthenticationExtension

from apps.openai_api.answer_schemas import ANSWERS, COMPONENTS, make_list, make_object
from apps.openai_api.body_schemas import complete_bodies
from apps.openai_api.schemas.chat import ChatBody
from apps.openai_api.schemas.completions import CompletionBody
from apps.openai_api.schemas.embeddings import EmbeddingBody
from apps.openai_api.schemas.load import LoadBody
from apps.openai_api.schemas.ranking import RerankBody, ScoreBody
from apps.openai_api.schemas.responses import ResponsesBody
from apps.openai_api.schemas.tokenize import DetokenizeBody, TokenizeBody
from apps.openai_api.schemas.transcriptions import ResponseFormat
from gpu_worker.protocol import Task

MODEL_SCHEMA: dict[str, Any] = make_object(
    {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["model"]},
        "created": {"type": "integer", "description": "Unix time in seconds"},
        "owned_by": {"type": "string"},
        "parent": {"type": ["string", "null"], "description": "The model that an adapter is for"},
        "context_length": {"type": ["integer", "null"], "description": "Tokens, prompt and answer together"},
        "input_modalities": {
            "type": ["array", "null"],
            "items": {"type": "string", "enum": ["text", "image", "audio"]},
        },
        "task": {"type": ["string", "null"], "enum": [*get_args(Task), None], "description": "Null: not known yet"},
        "type": {"type": "string", "enum": ["model"]},
        "display_name": {"type": "string"},
        "created_at": {"type": "string", "format": "date-time"},
        "max_input_tokens": {"type": ["integer", "null"]},
    }
)
MODEL_LIST_SCHEMA: dict[str, Any] = make_object(
    {
        "object": {"type": "string", "enum": ["list"]},
        "data": make_list(MODEL_SCHEMA),
        "has_more": {"type": "boolean"},
        "first_id": {"type": ["string", "null"]},
        "last_id": {"type": ["string", "null"]},
    }
)
ERROR_SCHEMA: dict[str, Any] = make_object(
    {
        "error": make_object(
            {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            }
        )
    }
)
RESPONSE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["response"]},
        "status": {
            "type": "string",
            "enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"],
        },
        "output": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["id", "object", "created_at", "status", "model", "output", "usage", "error"],
}
DELETED_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string"},
        "deleted": {"type": "boolean"},
    },
}


def make_list_schema(items: dict[str, Any]) -> dict[str, Any]:
    """Of one page of a list, as `pages.py` makes it."""
    return {
        "type": "object",
        "properties": {
            "object": {"type": "string", "enum": ["list"]},
            "data": {"type": "array", "items": items},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean"},
        },
    }


ITEM_LIST_SCHEMA = make_list_schema({"type": "object"})
FILE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["file"]},
        "bytes": {"type": "integer"},
        "created_at": {"type": "integer", "description": "Unix time in seconds"},
        "expires_at": {"type": ["integer", "null"]},
        "filename": {"type": "string"},
        "purpose": {"type": "string", "enum": ["batch", "batch_output", "user_data"]},
        "status": {"type": "string", "enum": ["processed"]},
    },
}
FILE_LIST_SCHEMA = make_list_schema(FILE_SCHEMA)
CONVERSATION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["conversation"]},
        "created_at": {"type": "integer", "description": "Unix time in seconds"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_METADATA: dict[str, Any] = {
    "type": ["object", "null"],
    "maxProperties": 16,
    "additionalProperties": {"type": "string", "maxLength": 512},
}
_ITEMS: dict[str, Any] = {"type": "array", "maxItems": 20, "items": {"type": "object"}}
CONVERSATION_NEW_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"items": _ITEMS, "metadata": _METADATA},
    "additionalProperties": False,
}
CONVERSATION_CHANGED_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"metadata": _METADATA},
    "required": ["metadata"],
    "additionalProperties": False,
}
CONVERSATION_ITEMS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"items": _ITEMS},
    "required": ["items"],
    "additionalProperties": False,
}
_OPERATIONS: dict[str, tuple[type[msgspec.Struct], str, str]] = {
    "/v1/chat/completions": (ChatBody, "create_chat_completion", "A chat completion, whole or as a stream of chunks."),
    "/v1/completions": (CompletionBody, "create_completion", "Text completions of one or several prompts."),
    "/v1/responses": (ResponsesBody, "create_response", "A response, whole or as a stream of events."),
    "/v1/embeddings": (EmbeddingBody, "create_embedding", "A vector for each text."),
    "/v1/rerank": (RerankBody, "rerank", "Documents in the order in which they answer a query."),
    "/v1/score": (ScoreBody, "score", "How well each second text answers its first."),
    "/v1/tokenize": (TokenizeBody, "tokenize", "The tokens of a prompt, or of messages."),
    "/v1/detokenize": (DetokenizeBody, "detokenize", "The text of tokens."),
    "/load_model": (LoadBody, "load_model", "Have a model loaded; its progress as server-sent events."),
}
_STREAMED = ("create_chat_completion", "create_completion", "create_response", "create_transcription", "load_model")
_TEXT = {"type": "string"}
_TRANSLATION_FORM: dict[str, Any] = {
    "file": {"type": "string", "format": "binary", "description": "flac, mp3, mp4, m4a, ogg, wav or webm"},
    "model": _TEXT,
    "prompt": _TEXT,
    "response_format": {"type": "string", "enum": list(get_args(ResponseFormat)), "default": "json"},
    "seed": {"type": "integer"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
}
_TRANSCRIPTION_FORM: dict[str, Any] = {
    **_TRANSLATION_FORM,
    "language": {"type": "string", "description": "ISO 639-1, or the English name"},
    "stream": {"type": "boolean", "default": False},
    "timestamp_granularities[]": {"type": "array", "items": {"type": "string", "enum": ["segment", "word"]}},
}
_FILE_FORM: dict[str, Any] = {
    "file": {"type": "string", "format": "binary"},
    "purpose": {"type": "string", "enum": ["batch", "user_data"]},
    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
    "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
}
_FORMS = {
    "/v1/audio/transcriptions": (_TRANSCRIPTION_FORM, "create_transcription", "What is said in a recording."),
    "/v1/audio/translations": (_TRANSLATION_FORM, "create_translation", "What is said in a recording, in English."),
}
_REF = "#/components/schemas/{name}"


class CallerAuthenticationScheme(OpenApiAuthenticationExtension):
    """How a request shows whose it is."""

    target_class = "apps.accounts.auth.CallerAuthentication"
    name = "api_key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        """A bearer token: the API key."""
        return {"type": "http", "scheme": "bearer"}


def add_generating_endpoints(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's post-processing hook."""
    bodies = [body for body, _id, _summary in _OPERATIONS.values()]
    references, components = msgspec.json.schema_components(bodies, ref_template=_REF)
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    complete_bodies(components)
    schemas.update(components, Error=ERROR_SCHEMA, Response=RESPONSE_SCHEMA, **COMPONENTS)
    for (path, (_body, operation_id, summary)), reference in zip(_OPERATIONS.items(), references, strict=True):
        result["paths"][path] = {"post": make_operation(operation_id, summary, reference)}
    for path, (fields, operation_id, summary) in _FORMS.items():
        operation = make_operation(operation_id, summary, {})
        form = {"type": "object", "required": ["file"], "properties": fields}
        operation["requestBody"]["content"] = {"multipart/form-data": {"schema": form}}
        result["paths"][path] = {"post": operation}
    upload = make_operation("create_file", "Store a file.", {})
    form = {"type": "object", "required": ["file", "purpose"], "properties": _FILE_FORM}
    upload["requestBody"]["content"] = {"multipart/form-data": {"schema": form}}
    upload["responses"]["200"]["content"] = {"application/json": {"schema": FILE_SCHEMA}}
    result["paths"]["/v1/files"]["post"] = upload
    stored = result["paths"]["/v1/responses/{response_id}"]["get"]["responses"]["200"]["content"]
    stored["text/event-stream"] = {"schema": make_event(None)}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"].setdefault("default", make_failure("Error"))
    return result


def make_failure(error: str) -> dict[str, Any]:
    """The answer that is an error, of this schema."""
    return {"description": "An error", "content": {"application/json": {"schema": {"$ref": _REF.format(name=error)}}}}


def make_event(name: str | None) -> dict[str, Any]:
    """One server-sent event: its data is the JSON of this component, at the end of most streams `[DONE]`."""
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json"}
    if name:
        data["contentSchema"] = {"$ref": _REF.format(name=name)}
    kinds = [{"type": "string", "enum": ["[DONE]"]}, data]
    properties = {"event": {"type": "string"}, "data": {"anyOf": kinds}}
    return {"type": "object", "properties": properties, "required": ["data"]}


def make_operation(operation_id: str, summary: str, body: dict[str, Any], error: str = "Error") -> dict[str, Any]:
    """One POST endpoint with a JSON body, whose errors have the schema of this name."""
    name, event = ANSWERS.get(operation_id, (None, None))
    schema = {"$ref": _REF.format(name=name)} if name else {"type": "object"}
    answer = {} if operation_id == "load_model" else {"application/json": {"schema": schema}}
    if operation_id in _STREAMED:
        answer["text/event-stream"] = {"schema": make_event(event)}
    if name == "Transcription":
        answer |= {"text/plain": {"schema": _TEXT}, "text/vtt": {"schema": _TEXT}}
    return {
        "operationId": operation_id,
        "summary": summary,
        "security": [{"api_key": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "The answer", "content": answer},
            "default": make_failure(error),
        },
    }
