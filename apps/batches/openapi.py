"""The schemas of batches in the OpenAPI document."""

from typing import Any

import msgspec

from apps.batches.models import BatchStatus
from apps.batches.schemas import BatchBody
from apps.openai_api.openapi import make_list_schema

_TIME = {"type": ["integer", "null"], "description": "Unix time in seconds"}
_COUNT = {"type": "integer"}
_FILE = {"type": ["string", "null"]}


def _make_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_PROBLEM = _make_object(
    {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "line": {"type": ["integer", "null"]},
    }
)
BATCH_SCHEMA = _make_object(
    {
        "id": {"type": "string"},
        "object": {"type": "string", "enum": ["batch"]},
        "endpoint": {"type": "string"},
        "model": {"type": ["string", "null"], "description": "Where all lines name the same"},
        "errors": {
            "type": ["object", "null"],
            "properties": {"object": {"type": "string"}, "data": {"type": "array", "items": _PROBLEM}},
        },
        "input_file_id": {"type": "string"},
        "completion_window": {"type": "string", "enum": ["24h"]},
        "status": {"type": "string", "enum": BatchStatus.values},
        "output_file_id": _FILE,
        "error_file_id": _FILE,
        "created_at": {"type": "integer"},
        **{f"{name}_at": _TIME for name in ("in_progress", "expires", "finalizing", "completed", "failed", "expired")},
        "cancelling_at": _TIME,
        "cancelled_at": _TIME,
        "request_counts": _make_object({"total": _COUNT, "completed": _COUNT, "failed": _COUNT}),
        "usage": _make_object(
            {
                "input_tokens": _COUNT,
                "input_tokens_details": _make_object({"cached_tokens": _COUNT}),
                "output_tokens": _COUNT,
                "output_tokens_details": _make_object({"reasoning_tokens": _COUNT}),
                "total_tokens": _COUNT,
            }
        ),
        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
    }
)
BATCH_LIST_SCHEMA = make_list_schema(BATCH_SCHEMA)


def add_batch_body(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's post-processing hook: the body of POST /v1/batches, from its msgspec struct."""
    (reference,), components = msgspec.json.schema_components([BatchBody], ref_template="#/components/schemas/{name}")
    result.setdefault("components", {}).setdefault("schemas", {}).update(components)
    body = {"required": True, "content": {"application/json": {"schema": reference}}}
    result["paths"]["/v1/batches"]["post"]["requestBody"] = body
    return result
