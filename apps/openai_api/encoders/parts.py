"""What the encoders of both endpoints share: usage, finish reasons, the fingerprint. Knows the wire, not HTTP."""

import hashlib
from functools import lru_cache
from typing import Any

from django.conf import settings

from apps.inference.events import Waiting
from gpu_worker.protocol import FinishReason, TokenLogprob, Usage

# OpenAI knows no "abort": such an answer ended before its time, as one cut by max_tokens does.
_FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "abort": "length",
}


def encode_finish_reason(reason: FinishReason) -> str:
    """OpenAI's word for it."""
    return _FINISH_REASONS[reason]


def encode_usage(usage: Usage) -> dict[str, Any]:
    """The usage object of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def encode_logprobs(logprobs: list[TokenLogprob]) -> list[dict[str, Any]]:
    """Each token with its alternatives."""
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "bytes": list(token.bytes),
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": list(top.bytes)} for top in token.top
            ],
        }
        for token in logprobs
    ]


def add_usage(total: Usage, more: Usage) -> Usage:
    """The usage of several requests together."""
    return Usage(
        prompt_tokens=total.prompt_tokens + more.prompt_tokens,
        completion_tokens=total.completion_tokens + more.completion_tokens,
        cached_tokens=total.cached_tokens + more.cached_tokens,
        reasoning_tokens=total.reasoning_tokens + more.reasoning_tokens,
    )


@lru_cache(maxsize=1024)
def make_fingerprint(model: str) -> str:
    """Changes with this software's version and with the model (and revision) that was asked for."""
    version = settings.SPECTACULAR_SETTINGS["VERSION"]
    return "fp_" + hashlib.sha256(f"{version}:{model}".encode()).hexdigest()[:10]


def describe_waiting(waiting: Waiting) -> str:
    """`queued 3 ahead`, `loading 42%`."""
    if waiting.stage == "queued":
        return "queued" if waiting.queue_position is None else f"queued {waiting.queue_position} ahead"
    return "loading" if waiting.progress is None else f"loading {waiting.progress:.0%}"
