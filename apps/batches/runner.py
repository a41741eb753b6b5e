"""Every batch that this process works on: one thread with an event loop, started with the first of them.

A Celery task only has the runner look what is due, so that the worker is free for everything else meanwhile.
"""

import asyncio
import logging
import os
import secrets
import socket
import threading
from typing import NamedTuple

from django.conf import settings

from apps.batches import leases
from apps.batches.run import BatchRun
from apps.inference import generate

STOP_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class _Worker(NamedTuple):
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    slots: asyncio.Semaphore  # lines at once, of all batches: who waits longest comes first


class Runner:
    """Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._runs: dict[str, asyncio.Task[None]] = {}  # the loop's own

    def start_due(self) -> None:
        """Begin to work on every batch that nobody works on, and return. Blocks for the look-up alone."""
        if batch_ids := leases.list_due():
            worker = self._get_worker()
            asyncio.run_coroutine_threadsafe(self._start(batch_ids, worker.slots), worker.loop).result()

    def stop(self) -> None:
        """Let go of every batch, hang up and end the thread. Blocks; a later `start_due` starts anew."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is None:
            return
        stopping = asyncio.run_coroutine_threadsafe(self._shutdown(), worker.loop)
        try:
            stopping.result(STOP_TIMEOUT_S)
        except TimeoutError:
            logger.error("batches did not stop in time: another process takes them up when they are stale")
        worker.loop.call_soon_threadsafe(worker.loop.stop)
        worker.thread.join(STOP_TIMEOUT_S)

    def _get_worker(self) -> _Worker:
        with self._lock:
            if self._worker is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="batches", daemon=True)
                self._worker = _Worker(loop, thread, asyncio.Semaphore(settings.BATCH_CONCURRENCY))
                thread.start()
            return self._worker

    async def _start(self, batch_ids: list[str], slots: asyncio.Semaphore) -> None:
        for batch_id in batch_ids:
            if batch_id not in self._runs:
                owner = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}"
                run = asyncio.create_task(BatchRun(batch_id, owner, slots).run(), name=batch_id)
                self._runs[batch_id] = run
                run.add_done_callback(self._note_end)

    def _note_end(self, run: asyncio.Task[None]) -> None:
        self._runs.pop(run.get_name(), None)
        if not run.cancelled() and (error := run.exception()) is not None:
            logger.error("batch %s was left", run.get_name(), exc_info=error)

    async def _shutdown(self) -> None:
        runs = list(self._runs.values())
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        await generate.shutdown()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


runner = Runner()
