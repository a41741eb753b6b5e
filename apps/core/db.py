"""The hot path's only way to the database: a few threads with a connection each. Knows no model.

A coroutine that called the ORM through `sync_to_async` would take a thread and a connection per open request
(Django's thread-sensitive contexts): 300 streams would exhaust PostgreSQL. Here they queue for two.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
R = TypeVar("R")

NUM_THREADS = 2
IDLE_CHECK_S = 5.0  # a connection that rested longer is tried before use: the server may have closed it

logger = logging.getLogger(__name__)
_pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="db")
_thread = threading.local()


async def run_db(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `fn` on a database thread and return what it returns or raises.

    `fn` must not return a lazy queryset. When the awaiting task is cancelled, a call that has begun still ends.
    """
    return await asyncio.get_running_loop().run_in_executor(_pool, partial(_call, fn, *args, **kwargs))


def submit_db(fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Have `fn` called on a database thread soon, waiting for nothing. A failure is logged. From any thread."""
    _pool.submit(partial(_call, fn, *args, **kwargs)).add_done_callback(_log_failure)


def close_db_connections() -> None:
    """Close every database thread's connections, after the calls already queued. Blocks until done.

    The threads stay usable: a later call connects again.
    """
    # The barrier keeps each thread on its own job, so that no thread takes two of them and another none.
    barrier = threading.Barrier(NUM_THREADS)

    def close() -> None:
        barrier.wait(timeout=30)
        connections.close_all()

    for future in [_pool.submit(close) for _ in range(NUM_THREADS)]:
        future.result()


def _call(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    for connection in connections.all(initialized_only=True):
        _drop_broken(connection)
    try:
        return fn(*args, **kwargs)
    finally:
        _thread.last_used = time.monotonic()


def _drop_broken(connection: BaseDatabaseWrapper) -> None:
    # CONN_MAX_AGE is about connections of Django's own request threads; these live as long as their thread.
    connection.close_at = None
    connection.close_if_unusable_or_obsolete()
    rested_s = time.monotonic() - getattr(_thread, "last_used", 0.0)
    if connection.connection is not None and rested_s > IDLE_CHECK_S and not connection.is_usable():
        connection.close()


def _log_failure(future: Future[object]) -> None:
    if (error := future.exception()) is not None:
        logger.error("a background database call failed", exc_info=error)
