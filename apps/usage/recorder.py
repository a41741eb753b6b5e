"""Writes the ledger: a row before a request's first output, and its end exactly once. Knows no engine, no HTTP.

One thread for each process takes everything that is pending and writes it in one transaction (group commit): a lone
request waits for one small write, a thousand share one. It writes when somebody waits for it, or when a line has
lain for LINGER_S: a short request's line has then most often met its end, and both are one row. While the database
is away rows are kept and tried again; requests wait for their row, so the backlog is bounded by the requests open.
"""

import asyncio
import atexit
import contextlib
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import NamedTuple

from django.db import connections

from apps.core.errors import Unavailable
from apps.usage.entry import Entry
from apps.usage.models import UsageStatus
from apps.usage.statements import write_entries, write_heartbeat

HEARTBEAT_S = 5.0  # how often running counts and the owner's heartbeat are written
MAX_PENDING = 20_000
LINGER_S = 0.05  # how long a line may lie that nobody waits for
# As PostgreSQL's settings of these names: where so many requests are open, those who wait are joined by more.
COMMIT_SIBLINGS = 8
COMMIT_DELAY_S = 0.003
RETRY_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0)  # then again and again the last one
WRITE_TIMEOUT_S = 15.0  # a request waits so long for its row before it fails, as when the database is away
CLOSE_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class _Batch(NamedTuple):
    opened: list[Entry]
    settled: list[Entry]


class Recorder:
    """The ledger's only writer in this process. `open` and `settle` never block; any thread may call them."""

    def __init__(self) -> None:
        self.owner = ""
        self._pending = _Batch([], [])
        self._running: dict[str, Entry] = {}  # open rows that are committed; the writer thread's own
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._busy = False
        self._heartbeat_at_s = 0.0
        self._due_s = math.inf  # when what is pending must be written
        self._must_flush = False  # all of it, whether due or not

    def open(self, entry: Entry) -> None:
        """Send a new line on its way to the database; `written` says when it is there.

        Raises Unavailable when the database has been away for so long that too many lines are pending.
        """
        with self._changed:
            if len(self._pending.opened) >= MAX_PENDING:
                raise Unavailable("Usage cannot be recorded at the moment. Try again later.", retry_after_s=5)
            self._pending.opened.append(entry)
            self._expect_write(LINGER_S)

    async def written(self, entry: Entry) -> None:
        """Returns once the line is committed, open or ended, so that even a crash cannot lose this request.

        Raises TimeoutError after WRITE_TIMEOUT_S. To be awaited in the entry's own event loop, by one task.
        """
        if entry.is_durable:
            return
        entry.waiter = entry.loop.create_future()
        with self._changed:
            self._expect_write(0.0)
        timer = entry.loop.call_later(WRITE_TIMEOUT_S, _time_out, entry.waiter)  # asyncio.timeout costs thrice as much
        try:
            await entry.waiter
        finally:
            timer.cancel()

    def settle(self, entry: Entry, status: UsageStatus, *, error_code: str = "") -> None:
        """The end of a line, with the counts that the entry has now and keeps.

        A second call changes nothing, but for one: an answer may still fail because its end cannot be committed.
        """
        with self._changed:
            if entry.status is not UsageStatus.OPEN:
                if status is UsageStatus.ERROR and not entry.is_durable:
                    entry.error_code, entry.status = error_code[:50], status
                return
            entry.error_code = error_code[:50]
            entry.finished_at = datetime.now(UTC)
            entry.duration_s = time.monotonic() - entry.opened_s
            entry.status = status
            self._pending.settled.append(entry)
            self._expect_write(LINGER_S)

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Block until all that was recorded before is committed. False when the time was not enough."""
        with self._changed:
            if any(self._pending):
                self._must_flush = True
                self._expect_write(0.0)
            return self._changed.wait_for(self._is_idle, timeout_s)

    def close(self) -> None:
        """Write what is pending and end the thread with its connection. Blocks; a later `open` starts anew."""
        with self._changed:
            thread, self._closing = self._thread, True
            self._changed.notify_all()
        if thread is not None:
            thread.join(CLOSE_TIMEOUT_S)

    # --- the writer thread ---

    def _expect_write(self, within_s: float) -> None:
        """The thread is woken only when it would otherwise come too late: each wake-up stops the event loop."""
        due_s = time.monotonic() + within_s
        if due_s >= self._due_s:
            return
        self._due_s = due_s
        if self._thread is None:
            self._closing = False
            self.owner = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
            self._thread = threading.Thread(target=self._run, name="usage-recorder", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _is_idle(self) -> bool:
        return not self._busy and not any(self._pending)

    def _run(self) -> None:
        try:
            while self._wait_for_work() and self._write_pending():
                pass
        finally:
            connections.close_all()
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None
                self._busy = False
                self._changed.notify_all()

    def _wait_for_work(self) -> bool:
        """False when closing and done."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while (wait_s := self._get_due_s() - time.monotonic()) > 0:
                if self._closing:
                    if any(self._pending):
                        break
                    self._thread = None  # under the lock: what is recorded from now on starts another thread
                    return False
                self._changed.wait(wait_s if wait_s < math.inf else None)
            self._busy = True
            has_siblings = len(self._pending.opened) + len(self._running) >= COMMIT_SIBLINGS
        if has_siblings:
            time.sleep(COMMIT_DELAY_S)
        return True

    def _get_due_s(self) -> float:
        if not any(self._pending):
            self._due_s = math.inf  # who asked meanwhile was in the batch just written
        return min(self._due_s, self._heartbeat_at_s + HEARTBEAT_S) if self._running else self._due_s

    def _take_batch(self) -> _Batch:
        """What is due. Lines just opened stay behind: most of them will be written together with their end."""
        opened: list[Entry] = []
        fresh: list[Entry] = []
        ripe_s = math.inf if self._must_flush or self._closing else time.monotonic() - LINGER_S
        for entry in self._pending.opened:
            is_due = entry.status is not UsageStatus.OPEN or entry.waiter is not None or entry.opened_s <= ripe_s
            (opened if is_due else fresh).append(entry)
        batch = _Batch(opened, self._pending.settled)
        self._pending = _Batch(fresh, [])
        self._due_s = fresh[0].opened_s + LINGER_S if fresh else math.inf
        self._must_flush = False
        return batch

    def _write_pending(self) -> bool:
        """Write what there is, however often it takes. False when closing and the database stays away."""
        with self._changed:
            batch = self._take_batch()
        num_failures = 0
        while True:
            try:
                self._write(batch)
            except Exception:  # the thread's boundary: whatever it is, the rows are kept and tried again
                logger.exception("usage of %d requests could not be written", len(batch.opened) + len(batch.settled))
                connections.close_all()
                if self._closing and num_failures >= len(RETRY_DELAYS_S):
                    logger.error("usage of %d requests was not written before the end", len(batch.opened))
                    return False
                time.sleep(RETRY_DELAYS_S[min(num_failures, len(RETRY_DELAYS_S) - 1)])
                num_failures += 1
            else:
                self._note_written(batch)
                return True

    def _write(self, batch: _Batch) -> None:
        entries = {entry.id: entry for entry in (*batch.opened, *batch.settled)}
        is_heartbeat_due = time.monotonic() - self._heartbeat_at_s >= HEARTBEAT_S
        if is_heartbeat_due:
            entries.update({id_: entry for id_, entry in self._running.items() if entry.counts != entry.counts_written})
        counts = {id_: entry.counts for id_, entry in entries.items()}
        if entries:
            write_entries(list(entries.values()), self.owner)
        if is_heartbeat_due:
            write_heartbeat(self.owner)
            self._heartbeat_at_s = time.monotonic()
        for id_, entry in entries.items():
            entry.counts_written = counts[id_]

    def _note_written(self, batch: _Batch) -> None:
        by_loop = defaultdict(list)
        for entry in batch.opened:
            self._running[entry.id] = entry
            entry.is_durable = True
            by_loop[entry.loop].append(entry)
        for entry in batch.settled:
            self._running.pop(entry.id, None)
        for loop, entries in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_mark_durable, entries)


def _time_out(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _mark_durable(entries: list[Entry]) -> None:
    for entry in entries:
        entry.mark_durable()


recorder = Recorder()
# Servers without the ASGI lifespan (daphne, runserver) end without a call of ours.
atexit.register(recorder.close)
