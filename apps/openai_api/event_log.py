"""The events of one stream, numbered from 0, in the memory of the process that writes them.

All of them go to the database by and by (`kept_events.py`); of those that are there the newest stay here, so that the
memory of a stream is bounded. Knows neither what an event says nor who may read it.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import ServiceError
from apps.openai_api.kept_events import save_events

WINDOW_BYTES = 256 * 1024  # of events that are kept here although they are saved, for readers that follow closely
MAX_UNSAVED_BYTES = 4 * 1024 * 1024  # the writer then waits: so much is lost at most when the process is killed


class News(NamedTuple):
    """What a reader has not seen yet."""

    events: list[bytes]
    has_ended: bool


class EventLog:
    """Written by one run, read by any number of readers, each at its own pace. Belongs to one event loop."""

    def __init__(self, stream_id: str, owner: Caller, *, has_ids: bool = False) -> None:
        self.stream_id = stream_id
        self.owner = owner
        self.first = 0  # the number of the oldest event here
        self.comment = b""  # what is waited for, of no use later
        self.error: ServiceError | None = None  # why there is no event at all
        self._has_ids = has_ids
        self._events: list[bytes] = []
        self._num_bytes = 0
        self._num_saved = 0
        self._num_unsaved_bytes = 0
        self._has_ended = False
        self._saved = asyncio.Event()
        self._readers: set[asyncio.Event] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def num_events(self) -> int:
        """How many there were so far."""
        return self.first + len(self._events)

    @property
    def has_readers(self) -> bool:
        """Whether somebody in this process reads it."""
        return bool(self._readers)

    def has_ended_at(self, position: int) -> bool:
        """Whether who has all events before this number has them all."""
        return self._has_ended and position >= self.num_events

    def is_of(self, caller: Caller, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the caller may read it here."""
        owner = self.owner
        return loop is self._loop and (owner.user_id, owner.team_id) == (caller.user_id, caller.team_id)

    def add(self, encoded: bytes) -> None:
        """Append whole events, each ended by an empty line."""
        self.comment = b""
        for event in encoded.split(b"\n\n")[:-1]:  # JSON has no raw line break
            tag = make_tag(self.stream_id, self.num_events) if self._has_ids else b""
            self._events.append(tag + event + b"\n\n")
            self._num_bytes += len(self._events[-1])
            self._num_unsaved_bytes += len(self._events[-1])
        self._wake()

    async def have_room(self) -> None:
        """Wait while too much is not saved yet. To be awaited between events, not by who saves."""
        while self._num_unsaved_bytes > MAX_UNSAVED_BYTES:
            self._saved.clear()
            await self._saved.wait()

    def tell(self, comment: bytes) -> None:
        """Show the readers of this moment a comment, which is no event."""
        self.comment = comment
        self._wake()

    def end(self, error: ServiceError | None = None) -> None:
        """No event comes any more."""
        self.error = error
        self._has_ended = True
        self._wake()

    async def save(self, *, is_last: bool = False) -> float | None:
        """Write to the database what is not there. Returns as `save_events`."""
        first = self._num_saved
        events = self._events[first - self.first :]
        idle_s = await run_db(save_events, self.stream_id, first, events, is_last)
        self._num_saved += len(events)
        self._num_unsaved_bytes -= sum(map(len, events))
        self._forget_saved()
        self._saved.set()
        return idle_s

    def read(self, position: int) -> News:
        """The events from this number on, which is not before `first`."""
        return News(self._events[position - self.first :], self._has_ended)

    @contextmanager
    def listen(self) -> Iterator[asyncio.Event]:
        """The event is set whenever there is news."""
        changed = asyncio.Event()
        self._readers.add(changed)
        try:
            yield changed
        finally:
            self._readers.discard(changed)

    def _forget_saved(self) -> None:
        num_forgotten = 0
        while self._num_bytes > WINDOW_BYTES and self.first + num_forgotten < self._num_saved:
            self._num_bytes -= len(self._events[num_forgotten])
            num_forgotten += 1
        del self._events[:num_forgotten]
        self.first += num_forgotten

    def _wake(self) -> None:
        for changed in self._readers:
            changed.set()


def make_tag(stream_id: str, number: int) -> bytes:
    """The line that gives an event its id, which a client sends back as `Last-Event-ID`."""
    return f"id: {stream_id}:{number}\n".encode()
