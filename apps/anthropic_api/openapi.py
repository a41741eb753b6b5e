"""The OpenAPI document of the Messages API, from its msgspec structs."""

from typing import Any

import msgspec

from apps.anthropic_api.schemas.body import MessagesBody, PromptFields
from apps.openai_api.openapi import make_event, make_operation

ERROR = "MessagesError"
_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["error"]},
        "error": {"type": "object", "properties": {"type": {"type": "string"}, "message": {"type": "string"}}},
        "request_id": {"type": "string"},
    },
}
_COUNT = {"type": "object", "properties": {"input_tokens": {"type": "integer"}}}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"type": "string", "enum": ["message"]},
        "role": {"type": "string", "enum": ["assistant"]},
        "model": {"type": "string"},
        "content": {"type": "array", "items": {"type": "object"}},
        "stop_reason": {"type": ["string", "null"]},
        "stop_sequence": {"type": ["string", "null"]},
        "usage": {"type": "object"},
    },
}


def add_messages(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's post-processing hook."""
    ref = "#/components/schemas/{name}"
    (body, prompt), components = msgspec.json.schema_components([MessagesBody, PromptFields], ref_template=ref)
    result["components"]["schemas"].update(components, **{ERROR: _ERROR_SCHEMA})
    create = make_operation("create_message", "A message, whole or as a stream of events.", body, error=ERROR)
    create["responses"]["200"]["content"] = {
        "application/json": {"schema": _MESSAGE},
        "text/event-stream": {"schema": make_event(None)},
    }
    count = make_operation("count_message_tokens", "How many tokens the prompt of a message has.", prompt, error=ERROR)
    count["responses"]["200"]["content"] = {"application/json": {"schema": _COUNT}}
    result["paths"]["/v1/messages"] = {"post": create}
    result["paths"]["/v1/messages/count_tokens"] = {"post": count}
    return result
