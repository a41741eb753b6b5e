"""The hot path's database threads: few, lasting, and none the worse for a connection that broke."""

import asyncio
import logging
import threading

import pytest
from django.db import connection

from apps.accounts.models import User
from apps.core.db import NUM_THREADS, close_db_connections, run_db, submit_db
from tests.factories import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def find_thread_and_connection() -> tuple[int, int]:
    connection.ensure_connection()
    return threading.get_ident(), id(connection.connection)


async def test_many_calls_share_two_threads_and_their_connections() -> None:
    pairs = await asyncio.gather(*(run_db(find_thread_and_connection) for _ in range(50)))
    assert len({thread for thread, _ in pairs}) <= NUM_THREADS
    assert len(set(pairs)) <= NUM_THREADS
    assert threading.get_ident() not in {thread for thread, _ in pairs}


async def test_rows_written_elsewhere_are_seen() -> None:
    await run_db(User.objects.count)
    await asyncio.to_thread(make_user, "ann")
    assert await run_db(User.objects.filter(username="ann").exists)


async def test_broken_connection_is_replaced() -> None:
    def break_connection() -> object:
        # What an error of PostgreSQL's leaves behind when the server dropped the connection.
        connection.ensure_connection()
        connection.errors_occurred = True
        connection.is_usable = lambda: False
        return connection.connection

    def get_connection() -> object:
        connection.ensure_connection()
        vars(connection).pop("is_usable", None)
        return connection.connection

    broken = await run_db(break_connection)
    used = await asyncio.gather(*(run_db(get_connection) for _ in range(20)))
    assert broken not in used
    assert await run_db(User.objects.count) == 0


async def test_error_of_the_call_is_raised() -> None:
    with pytest.raises(User.DoesNotExist):
        await run_db(User.objects.get, username="nobody")


async def test_background_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("it broke")

    with caplog.at_level(logging.ERROR):
        submit_db(fail)
        await asyncio.to_thread(close_db_connections)
    assert "it broke" in caplog.text
