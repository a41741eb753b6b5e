"""Several generations as one stream: the prompts of a text completion run side by side and end together."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from apps.inference.events import Event
from apps.inference.generate import generate
from apps.inference.requests import GenerationRequest

_MAX_AHEAD = 64  # events that may wait for a slow client before the generations are held back

_Queue = asyncio.Queue[tuple[int, Event] | asyncio.Task[None]]  # events, and each task once it has ended


async def generate_all(requests: list[GenerationRequest]) -> AsyncGenerator[tuple[int, Event], None]:
    """Each event with the position of its request. Ends after the last; the first failure ends all and is raised.

    Closing the generator aborts every request that still runs.
    """
    if len(requests) == 1:
        async with aclosing(generate(requests[0])) as events:
            async for event in events:
                yield 0, event
        return
    queue: _Queue = asyncio.Queue(_MAX_AHEAD)
    tasks = [asyncio.create_task(_forward(position, request, queue)) for position, request in enumerate(requests)]
    ends = [asyncio.create_task(_announce_end(task, queue)) for task in tasks]
    try:
        num_running = len(tasks)
        while num_running:
            item = await queue.get()
            if isinstance(item, asyncio.Task):
                num_running -= 1
                item.result()  # raises what the generation raised
            else:
                yield item
    finally:
        for task in (*tasks, *ends):
            task.cancel()
        await asyncio.gather(*tasks, *ends, return_exceptions=True)


async def _forward(position: int, request: GenerationRequest, queue: _Queue) -> None:
    async with aclosing(generate(request)) as events:
        async for event in events:
            await queue.put((position, event))


async def _announce_end(task: asyncio.Task[None], queue: _Queue) -> None:
    await asyncio.wait([task])
    await queue.put(task)
