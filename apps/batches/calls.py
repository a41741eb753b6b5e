"""One line of a batch as a call of its endpoint: the schemas, the data path and the encoders that HTTP goes through.

What differs: it goes behind all interactive work, and the ledger says so in `endpoint`.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from apps.accounts.caller import Caller
from apps.core.errors import UnsupportedParameter
from apps.inference.requests import GenerationRequest, PoolingRequest
from apps.openai_api.answers import answer_chat, answer_completion, answer_pooling
from apps.openai_api.encoders.pooling import EmbeddingFold
from apps.openai_api.response_answers import ResponseAnswer
from apps.openai_api.schemas.chat import parse_chat
from apps.openai_api.schemas.completions import parse_completion
from apps.openai_api.schemas.embeddings import parse_embedding
from apps.openai_api.schemas.responses import parse_response

PRIORITY = 10  # behind 0, interactive work
LEDGER_PREFIX = "batch/"


class Call(NamedTuple):
    """A valid request. `id` is also that of its usage row; `answer` raises ServiceError."""

    id: str
    answer: Callable[[], Awaitable[bytes]]


def _read_chat(body: bytes, caller: Caller) -> Call:
    call = parse_chat(body, caller)
    _refuse_stream(call.request)
    call = call._replace(request=_defer(call.request))
    return Call(call.request.id, lambda: answer_chat(call))


def _read_completion(body: bytes, caller: Caller) -> Call:
    call = parse_completion(body, caller)
    _refuse_stream(call.requests[0])
    call = call._replace(requests=[_defer(request) for request in call.requests])
    return Call(call.id, lambda: answer_completion(call))


def _read_response(body: bytes, caller: Caller) -> Call:
    call = parse_response(body, caller)
    _refuse_stream(call.request)
    if call.body.background:
        raise UnsupportedParameter("'background': a batch runs in the background as a whole.", param="background")
    call = call._replace(request=_defer(call.request))
    return Call(call.request.id, ResponseAnswer(call, caller).answer)


def _read_embedding(body: bytes, caller: Caller) -> Call:
    call = parse_embedding(body, caller)
    request = call.request
    message = msgspec.structs.replace(request.message, priority=PRIORITY)
    deferred: PoolingRequest = msgspec.structs.replace(
        request, message=message, endpoint=LEDGER_PREFIX + request.endpoint
    )
    return Call(request.id, lambda: answer_pooling(deferred, EmbeddingFold(call)))


_READERS: dict[str, Callable[[bytes, Caller], Call]] = {
    "/v1/chat/completions": _read_chat,
    "/v1/completions": _read_completion,
    "/v1/embeddings": _read_embedding,
    "/v1/responses": _read_response,
}
ENDPOINTS = tuple(_READERS)


def read_call(endpoint: str, body: bytes, caller: Caller) -> Call:
    """Raises InvalidRequest, as the endpoint would."""
    return _READERS[endpoint](body, caller)


def _defer(request: GenerationRequest) -> GenerationRequest:
    return msgspec.structs.replace(request, priority=PRIORITY, endpoint=LEDGER_PREFIX + request.endpoint)


def _refuse_stream(request: GenerationRequest) -> None:
    if request.stream:
        raise UnsupportedParameter("'stream': the answers of a batch are in a file.", param="stream")
