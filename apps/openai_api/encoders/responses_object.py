"""The response object, as it stands at any moment of an answer, and the items that it holds.

https://platform.openai.com/docs/api-reference/responses/object. Knows nothing of events, HTTP or the database.
"""

import time
from typing import Any

from apps.core.errors import InvalidRequest, RateLimited, ServiceError
from apps.openai_api.schemas.responses import ResponsesBody, ResponsesCall, TextFields
from gpu_worker.protocol import Sampling, Usage

Item = dict[str, Any]


def make_response(call: ResponsesCall, sampling: Sampling) -> dict[str, Any]:
    """What is known before the first token. Sampling is what is used, not only what was asked for."""
    body = call.body
    return {
        "id": call.request.id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "queued",
        "background": bool(body.background),
        "completed_at": None,
        "conversation": {"id": call.conversation_id} if call.conversation_id is not None else None,
        "error": None,
        "frequency_penalty": sampling.frequency_penalty,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": call.request.model,
        "output": [],
        "parallel_tool_calls": call.request.parallel_tool_calls,
        "presence_penalty": sampling.presence_penalty,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": _make_reasoning(body),
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": call.is_stored,
        "temperature": sampling.temperature,
        "text": _make_text(body.text or TextFields()),
        "tool_choice": body.tool_choice or "auto",
        "tools": call.tools.echo,
        "top_logprobs": sampling.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def make_usage(usage: Usage) -> dict[str, Any]:
    """Its usage object."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def make_error(error: ServiceError) -> dict[str, Any]:
    """Its error object, in the words that it has for codes."""
    code = "server_error"
    if isinstance(error, InvalidRequest):
        code = "invalid_prompt"
    elif isinstance(error, RateLimited):
        code = "rate_limit_exceeded"
    return {"code": code, "message": error.message}


def make_text_part(text: str, logprobs: list[dict[str, Any]]) -> Item:
    """The one part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": logprobs, "text": text}


def make_message(item_id: str, content: list[Item], status: str) -> Item:
    """What the model says."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def make_reasoning(item_id: str, content: list[Item], status: str) -> Item:
    """What it thinks."""
    return {
        "id": item_id,
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": content,
        "encrypted_content": None,
    }


def _make_reasoning(body: ResponsesBody) -> dict[str, Any]:
    given = body.reasoning
    return {"effort": given.effort if given else None, "summary": given.summary if given else None}


def _make_text(text: TextFields) -> dict[str, Any]:
    given = text.format
    shown: dict[str, Any] = {"type": given.type if given else "text"}
    if given is not None and given.type == "json_schema":
        schema = given.json_schema or given  # the nested form of chat completions
        shown |= {
            "name": schema.name or "response",
            "description": schema.description,
            "schema": schema.schema,
            "strict": bool(schema.strict),
        }
    return {"format": shown, "verbosity": text.verbosity or "medium"}
