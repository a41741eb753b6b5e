"""How a line of a batch ended, and the line of the output that says so.

https://platform.openai.com/docs/api-reference/batch/request-output
"""

from typing import Any, NamedTuple

import msgspec

from apps.core.http import encode_json
from apps.core.ids import new_batch_line_id


class Tokens(NamedTuple):
    """What was counted, of one line or of many."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class Outcome(NamedTuple):
    """The last answer to a line: a whole one, or an error as the endpoint would have sent it."""

    number: int
    is_ok: bool
    output: bytes  # a JSON text without a line break
    tokens: Tokens


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    """By the names of completions, and of responses."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_answer_decoder = msgspec.json.Decoder(_Answer)


def make_outcome(number: int, custom_id: str, *, status: int, request_id: str, body: bytes) -> Outcome:
    """What the endpoint answered, or would have."""
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    tokens = _count(body) if status == 200 else Tokens()
    return Outcome(number, status == 200, _encode(custom_id, response, None), tokens)


def encode_unanswered(custom_id: str, code: str, message: str) -> bytes:
    """The line of a request that was not run."""
    return _encode(custom_id, None, {"code": code, "message": message})


def add_tokens(outcomes: list[Outcome]) -> Tokens:
    """The sums."""
    return Tokens(*(sum(counts) for counts in zip(*(outcome.tokens for outcome in outcomes), strict=True)))


def _encode(custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    return encode_json({"id": new_batch_line_id(), "custom_id": custom_id, "response": response, "error": error})


def _count(body: bytes) -> Tokens:
    usage = _answer_decoder.decode(body).usage or _Usage()
    given = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    made = usage.completion_tokens_details or usage.output_tokens_details or _Details()
    return Tokens(
        usage.prompt_tokens + usage.input_tokens,
        given.cached_tokens,
        usage.completion_tokens + usage.output_tokens,
        made.reasoning_tokens,
    )
