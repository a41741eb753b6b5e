"""Lines that have ended, on their way into the database: all that wait go in one transaction."""

import asyncio
import logging
from collections.abc import Callable

from django.db import Error as DatabaseError

from apps.batches.leases import add_outcomes
from apps.batches.outcomes import Outcome
from apps.core.db import run_db

RETRY_DELAYS_S = (0.1, 1.0, 5.0, 15.0)

logger = logging.getLogger(__name__)


class Journal:
    """Of one run of one batch, on its event loop. `on_loss` is called when the batch is not the owner's any more."""

    def __init__(self, batch_id: str, owner: str, on_loss: Callable[[], None]) -> None:
        self._batch_id = batch_id
        self._owner = owner
        self._on_loss = on_loss
        self._waiting: list[Outcome] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, outcome: Outcome) -> None:
        """Returns when it is committed. Raises DatabaseError. Who is cancelled here has it written all the same."""
        self._waiting.append(outcome)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(self._writing)

    async def close(self) -> None:
        """Returns when all that was added is committed. Raises DatabaseError."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def _write(self) -> None:
        try:
            while self._waiting:
                outcomes, self._waiting = self._waiting, []
                if not await self._commit(outcomes):
                    return self._on_loss()
        finally:
            self._writing = None

    async def _commit(self, outcomes: list[Outcome]) -> bool:
        for delay_s in RETRY_DELAYS_S:
            try:
                return await run_db(add_outcomes, self._batch_id, self._owner, outcomes)
            except DatabaseError:
                logger.exception("%d answers of batch %s could not be written", len(outcomes), self._batch_id)
                await asyncio.sleep(delay_s)
        return await run_db(add_outcomes, self._batch_id, self._owner, outcomes)
