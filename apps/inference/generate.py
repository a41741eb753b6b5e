"""The one stream of events behind every endpoint: admit, route, stream, resume, settle. Knows no wire format."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import nullcontext

from apps.accounts.caller import Caller
from apps.core.errors import Unavailable, UnsupportedParameter
from apps.inference import metrics
from apps.inference.answer import Answer
from apps.inference.bounds import bound_tokens
from apps.inference.clients.base import LinkLost
from apps.inference.events import Event, Waiting
from apps.inference.media import load_media
from apps.inference.pool import get_pool
from apps.inference.requests import AnyRequest, GenerationRequest
from apps.inference.router import Route, find_affinity
from apps.quotas import permits
from apps.quotas.permits import admit
from apps.registry import directory
from apps.usage.entry import Entry
from apps.usage.recorder import recorder
from gpu_worker.protocol import Failed

_NOTHING = nullcontext()


async def generate(request: AnyRequest) -> AsyncGenerator[Event, None]:
    """Everything that comes of one request, in order; see `Event`.

    Raises ServiceError: before Started nothing was produced, later it means a failure in the middle. A replica
    that dies is replaced, and the answer goes on where it stopped. Closing the generator, or cancelling the task
    that reads it, stops the request at the worker; in every case its usage is settled exactly once.
    """
    model = await directory.get_model(request.model, request.caller)
    if model.adapter is not None and not isinstance(request, GenerationRequest):
        raise UnsupportedParameter(f"'{model.name}' is an adapter: it is for chat and text completions.", param="model")
    permit = await admit(request.id, request.caller, model)
    with permit or _NOTHING:
        request = await load_media(request)
        route = Route(model, find_affinity(request))
        if permit is not None and permit.counts_tokens:
            while isinstance(step := await route.next(), Waiting):  # tokens are counted by a replica
                yield step
            await permit.hold_tokens(*await bound_tokens(request, model))
        with Answer(request, model, permit) as answer:
            while not answer.is_complete:  # one replica after the other
                while isinstance(step := await route.next(), Waiting):
                    if not answer.has_started:
                        yield step
                try:
                    stream = answer.submit_to(step)
                    while not answer.is_complete:
                        while (event := stream.pop()) is None:
                            await stream.wait()
                        if isinstance(event, Failed):
                            route.leave(step, event)
                            break
                        told = answer.take(event)
                        if answer.lacks_row:
                            await _wait_until_durable(answer.entry)
                        if told is not None:
                            yield told
                except LinkLost:
                    metrics.FAILOVERS.labels(answer.entry.model_name).inc()
                    route.lose(has_started=answer.has_started)


async def load(model: str, caller: Caller) -> AsyncGenerator[Waiting, None]:
    """Have the model loaded: how far it is, as it goes; ends when a replica is ready. Raises ServiceError."""
    route = Route(await directory.get_model(model, caller))
    while isinstance(step := await route.next(), Waiting):
        yield step


async def shutdown() -> None:
    """Hang up on every replica and write all usage. Called when the server stops, after its last request."""
    await get_pool().close()
    await permits.shutdown()
    await asyncio.to_thread(recorder.close)


async def _wait_until_durable(entry: Entry) -> None:
    try:
        await recorder.written(entry)
    except TimeoutError:
        raise Unavailable("Usage cannot be recorded at the moment. Try again later.", retry_after_s=5) from None
