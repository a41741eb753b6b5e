"""Tokens of a prompt and the text of tokens, as a model's own tokenizer and chat template have them.

A worker is asked, since web processes hold no tokenizer. Nothing is computed, so no row of the ledger is written.
"""

from apps.accounts.caller import Caller
from apps.core.ids import new_id
from apps.inference.clients.base import LinkLost, ReplicaLink
from apps.inference.events import Waiting
from apps.inference.media import load_media
from apps.inference.requests import GenerationRequest
from apps.inference.router import Route
from apps.inference.submission import explain_encoding, make_generate
from apps.registry import directory
from apps.registry.directory import ModelSpec
from gpu_worker.protocol import Detokenize, Detokenized, Failed, Sampling, Tokenize, Tokenized, Usage

_Question = Tokenize | Detokenize
_Answer = Tokenized | Detokenized


async def tokenize(
    request: GenerationRequest,
    *,
    add_special_tokens: bool = True,
    add_generation_prompt: bool = True,
    with_tokens: bool = True,
    with_strings: bool = False,
) -> Tokenized:
    """The prompt that `generate(request)` would compute. Loads the model where need be. Raises ServiceError."""
    model = await directory.get_model(request.model, request.caller)
    request = await load_media(request)
    message = Tokenize(
        id=new_id("tok-"),
        request=make_generate(request.id, request, model, Sampling(seed=0)),
        add_special_tokens=add_special_tokens,
        add_generation_prompt=add_generation_prompt,
        with_tokens=with_tokens,
        with_strings=with_strings,
    )
    return await _ask_for_tokens(model, message)


async def count_prompt(request: GenerationRequest, model: ModelSpec) -> Tokenized:
    """How many tokens the prompt of `generate(request)` is, with its pictures loaded. Raises ServiceError."""
    message = make_generate(request.id, request, model, Sampling(seed=0))
    return await _ask_for_tokens(model, Tokenize(id=new_id("tok-"), request=message, with_tokens=False))


async def detokenize(model: str, caller: Caller, token_ids: list[int]) -> str:
    """The text of these tokens, special ones included. Raises ServiceError."""
    answer = await _ask(await directory.get_model(model, caller), Detokenize(new_id("detok-"), token_ids))
    if not isinstance(answer, Detokenized):
        raise TypeError(f"asked for a text, the worker said {type(answer).__name__}")
    return answer.text


async def _ask_for_tokens(model: ModelSpec, message: Tokenize) -> Tokenized:
    answer = await _ask(model, message)
    if not isinstance(answer, Tokenized):
        raise TypeError(f"asked for tokens, the worker said {type(answer).__name__}")
    return answer


async def _ask(model: ModelSpec, question: _Question) -> _Answer:
    """One question to whichever replica is ready, and to another one when that is lost. Raises ServiceError."""
    route = Route(model)
    while True:
        while isinstance(step := await route.next(), Waiting):
            pass
        try:
            event = await _ask_replica(step, question)
        except LinkLost:
            route.lose(has_started=False)
            continue
        if not isinstance(event, Failed):
            return event
        route.leave(step, event)


async def _ask_replica(link: ReplicaLink, question: _Question) -> _Answer | Failed:
    """Raises LinkLost, PayloadTooLarge or InvalidRequest."""
    with explain_encoding():
        stream = link.submit(question)
    try:
        while (event := stream.pop()) is None:
            await stream.wait()
    finally:
        link.abort(stream, _forget)  # for a client that has left: an answer that is there has ended it
    if isinstance(event, Tokenized | Detokenized | Failed):
        return event
    raise TypeError(f"a worker answered a question of tokens by {type(event).__name__}")


def _forget(usage: Usage | None) -> None:
    """Nothing was computed."""
