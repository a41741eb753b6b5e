"""What the database said a moment ago, kept in memory: one look for all who ask, whatever the load. Knows no table."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from django.db import DatabaseError

from apps.core.db import run_db

MAX_AGE_S = 1.0
MAX_AGE_WITHOUT_DATABASE_S = 60.0  # streams and new requests outlive a short outage of the database

T = TypeVar("T")
logger = logging.getLogger(__name__)


class _Snapshot(NamedTuple, Generic[T]):
    taken_s: float
    generation: int
    value: T


class Snapshots(Generic[T]):
    """The latest, and who is fetching the next one. One for the process, used from any event loop.

    `take` asks the database, on a database thread. Nothing is asked while nobody wants to know.
    """

    def __init__(self, take: Callable[[], T]) -> None:
        self._take = take
        self._snapshot: _Snapshot[T] | None = None
        self._generation = 0
        self._refreshes: dict[tuple[int, int], asyncio.Task[_Snapshot[T]]] = {}

    def invalidate(self) -> None:
        """The next question is answered by the database. From any thread."""
        self._generation += 1

    def peek(self) -> T | None:
        """What is known, if it is young enough."""
        snapshot = self._snapshot
        if snapshot is not None and self._is_younger(snapshot, MAX_AGE_S) and snapshot.generation == self._generation:
            return snapshot.value
        return None

    async def get(self) -> T:
        """At most MAX_AGE_S old, or MAX_AGE_WITHOUT_DATABASE_S while the database is away. Raises DatabaseError."""
        value = self.peek()
        if value is not None:
            return value
        # One query for all who wait for the same generation. A task belongs to its loop, and tests run many.
        slot = (id(asyncio.get_running_loop()), self._generation)
        task = self._refreshes.get(slot)
        if task is None:
            task = self._refreshes[slot] = asyncio.create_task(self._refresh(self._generation))
            task.add_done_callback(lambda _: self._refreshes.pop(slot, None))
        return (await asyncio.shield(task)).value  # who came first may leave: the others still wait

    async def _refresh(self, generation: int) -> _Snapshot[T]:
        taken_s = time.monotonic()
        try:
            snapshot = _Snapshot(taken_s, generation, await run_db(self._take))
        except DatabaseError:
            old = self._snapshot
            if old is None or not self._is_younger(old, MAX_AGE_WITHOUT_DATABASE_S):
                raise
            logger.exception("the database does not answer: going by what was known before")
            return old
        self._snapshot = snapshot
        return snapshot

    def _is_younger(self, snapshot: _Snapshot[T], age_s: float) -> bool:
        return time.monotonic() - snapshot.taken_s < age_s
