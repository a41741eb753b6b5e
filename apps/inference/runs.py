"""Answers that belong to this process, not to the connection that asked for them. Knows no wire format and no table.

A run reads `generate()` to its end whoever listens, says regularly that it lives, and keeps how it ended.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from apps.core.errors import ServiceError, Unavailable
from apps.core.http import make_internal_error
from apps.inference.events import Event
from apps.inference.generate import generate
from apps.inference.requests import GenerationRequest

logger = logging.getLogger(__name__)
_runs: set["Run"] = set()


class Interrupted(Unavailable):
    """The run was cancelled: by `Run.cancel`, by its own beat, or because the server stops."""


class Run(ABC):
    """One answer being written. Its methods belong to the event loop it was started on."""

    beat_interval_s = 2.0  # also how soon a cancellation from elsewhere is seen

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._is_ending = False  # from here on a further cancellation would cut the end short
        self._task = asyncio.create_task(self._run(), name=f"run {request.id}")
        _runs.add(self)

    def generate(self) -> AsyncGenerator[Any, None]:
        """The events that `take` gets: those of `generate()`, and whatever a subclass has beside them."""
        return generate(self._request)

    @abstractmethod
    async def take(self, event: Event) -> None:
        """The next event of the answer. Raises ServiceError to end it."""

    @abstractmethod
    async def beat(self) -> bool:
        """Say that the answer is being written, and save what there is. False: it must not be written on."""

    @abstractmethod
    async def end(self, error: ServiceError | None) -> None:
        """Keep the end. `error`: why it came early, `Interrupted` after a cancellation."""

    def cancel(self) -> None:
        """Stop generating; what there is of the answer is kept. Harmless when it has ended."""
        if not self._is_ending:
            self._is_ending = True
            self._task.cancel()

    async def interrupt(self) -> None:
        """Cancel, and return when the end is kept."""
        self.cancel()
        await asyncio.wait([self._task])

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this loop may touch the run."""
        return self._task.get_loop() is loop

    async def _run(self) -> None:
        beating = asyncio.create_task(self._beat())
        error: ServiceError | None = None
        try:
            async with aclosing(self.generate()) as events:
                async for event in events:
                    await self.take(event)
        except ServiceError as raised:
            error = raised
        except asyncio.CancelledError:
            error = Interrupted("The server was stopped while it answered. Try again.")
        except Exception:
            logger.exception("%s failed", self._task.get_name())
            error = make_internal_error()
        self._is_ending = True
        beating.cancel()
        await asyncio.wait([beating])
        try:
            await self.end(error)
        except Exception:  # nobody waits for it: others see by its age that nobody writes it any more
            logger.exception("%s could not be kept", self._task.get_name())
        finally:
            _runs.discard(self)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.beat_interval_s)
            try:
                if not await self.beat():
                    return self.cancel()
            except Exception:  # the database may come back; the answer goes on in memory
                logger.exception("%s could not be marked", self._task.get_name())


async def shutdown() -> None:
    """Interrupt every run of this loop and return when their ends are kept. Before `generate.shutdown()`."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(run.interrupt() for run in list(_runs) if run.belongs_to(loop)))
