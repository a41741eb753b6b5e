"""The most tokens that a request can come to, which limits hold until it has ended. Knows no limit.

A prompt of messages or text is counted by the model's own tokenizer. Inputs of encoders and recordings have bounds that
need no model: a token is at least one byte of text, and a recording of so many bytes has at most so many windows.
"""

from typing import NamedTuple

import msgspec

from apps.core.errors import InvalidRequest, Unavailable
from apps.inference.failures import RETRY_AFTER_S
from apps.inference.pool import get_pool
from apps.inference.requests import AnyRequest, GenerationRequest, PoolingRequest
from apps.inference.sampling import resolve_sampling
from apps.inference.tokens import count_prompt
from apps.registry import directory
from apps.registry.directory import ModelSpec
from gpu_worker.protocol import Embed, Score

MEDIA_TOKENS = 16_384  # of a picture or a recording, where nobody counts it: more than models make of one
SPECIAL_TOKENS = 64  # around a text: those of the tokenizer, and a short prompt of the repository
_BYTES_PER_WINDOW = 30 * 1000  # of a recording at 8 kbit/s, the least that speech is sent with
_TOKENS_PER_WINDOW = 448  # Whisper's own limit, prompt and text together


class Bound(NamedTuple):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int


async def bound_tokens(request: AnyRequest, model: ModelSpec) -> Bound:
    """With the pictures loaded. Loads the model where need be. Raises ServiceError."""
    if isinstance(request, GenerationRequest):
        return await _bound_generation(request, model)
    if isinstance(request, PoolingRequest):
        return Bound(_bound_inputs(request.message), 0)
    num_windows = len(request.message.audio) // _BYTES_PER_WINDOW + 1
    return Bound(_TOKENS_PER_WINDOW * num_windows, _TOKENS_PER_WINDOW * num_windows)


async def _bound_generation(request: GenerationRequest, model: ModelSpec) -> Bound:
    links = get_pool().get_links(await directory.get_replicas(model.id))
    info = next((link.info for link in links if link.info is not None), None)
    if info is None:
        raise Unavailable("The model is not ready. Try again later.", retry_after_s=RETRY_AFTER_S)
    wanted = resolve_sampling(request, model, info).max_tokens
    if info.engine == "http":
        return _bound_elsewhere(request, wanted, info.max_model_len or model.max_model_len)
    counted = await count_prompt(request, model)
    room = max(0, counted.max_model_len - counted.num_tokens)
    return Bound(counted.num_tokens, request.n * (room if wanted is None else min(wanted, room)))


def _bound_elsewhere(request: GenerationRequest, wanted: int | None, context: int | None) -> Bound:
    """Of a model on a server that is not asked to count."""
    asked = (request.messages, request.prompt, request.suffix, request.tools)
    prompt_tokens = len(msgspec.json.encode(asked)) + SPECIAL_TOKENS + MEDIA_TOKENS * len(request.media or {})
    if wanted is None and not context:
        message = "Your limits count tokens, and the context of this model is not known: set 'max_tokens'."
        raise InvalidRequest(message, param="max_tokens")
    return Bound(prompt_tokens, request.n * (wanted or context or 0))


def _bound_inputs(message: Embed | Score) -> int:
    if isinstance(message, Embed):
        return sum(_bound_text(given) if isinstance(given, str) else len(given) for given in message.inputs)
    repeats = max(1, len(message.documents) // max(1, len(message.queries)))
    queries = sum(_bound_text(query) for query in message.queries) * repeats
    return queries + sum(_bound_text(document) for document in message.documents)


def _bound_text(text: str) -> int:
    return len(text.encode(errors="replace")) + SPECIAL_TOKENS
