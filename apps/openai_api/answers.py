"""Whole answers: a valid call in, the bytes of its answer out. Each is the fold of the events of `generate()`.

Behind an unstreamed HTTP request and behind a line of a batch alike. Knows neither.
"""

import asyncio
from contextlib import aclosing

from apps.inference.generate import generate
from apps.inference.requests import PoolingRequest
from apps.openai_api.encoders.chat import ChatFold
from apps.openai_api.encoders.completions import CompletionFold
from apps.openai_api.encoders.pooling import ResultFold, iterate_rows
from apps.openai_api.mcp_chats import generate_chat
from apps.openai_api.merge import generate_all
from apps.openai_api.schemas.chat import ChatCall
from apps.openai_api.schemas.completions import CompletionCall
from gpu_worker.protocol import Delta, Finished, Usage, Vectors

_NUMBERS_AT_ONCE = 8192  # that are encoded before the event loop gets its turn


async def answer_chat(call: ChatCall) -> bytes:
    """A chat completion. Raises ServiceError."""
    fold = ChatFold(call.request, call.customs)
    with call.naming():
        async with aclosing(generate_chat(call)) as events:
            async for event in events:
                match event:
                    case Delta():
                        fold.add_delta(event)
                    case Finished():
                        fold.add_finish(event)
    return fold.encode()


async def answer_completion(call: CompletionCall) -> bytes:
    """The text completions of all prompts. Raises ServiceError."""
    fold = CompletionFold(call)
    async with aclosing(generate_all(call.requests)) as events:
        async for position, event in events:
            match event:
                case Delta():
                    fold.add_delta(position, event)
                case Finished():
                    fold.add_finish(position, event)
    return fold.encode()


async def answer_pooling(request: PoolingRequest, fold: ResultFold) -> bytes:
    """Vectors or scores. Raises ServiceError."""
    usage = Usage()
    async with aclosing(generate(request)) as events:
        async for event in events:
            match event:
                case Vectors():
                    await _add_all(fold, event)
                case Finished():
                    usage = event.usage
    return fold.encode(usage)


async def _add_all(fold: ResultFold, vectors: Vectors) -> None:
    num_rows = max(1, _NUMBERS_AT_ONCE // vectors.width)
    for position, (index, row) in enumerate(iterate_rows(vectors), start=1):
        fold.add(index, row)
        if position % num_rows == 0:
            await asyncio.sleep(0)
