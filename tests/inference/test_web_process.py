"""A whole web process under uvicorn: 300 open streams on PostgreSQL, and kill -9 in the middle of answers."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest

from apps.usage.models import UsageStatus
from tests.scripted_worker import Answer, ScriptedWorker
from tests.servers import run_postgres
from tests.web_process import WebProcess, run_python, run_web_process

pytestmark = pytest.mark.slow

NUM_STREAMS = 300
MAX_CONNECTIONS = 5
CHUNK = b'"content":"word'

_SWEEP = """
import django
django.setup()
from apps.usage import services
services.OWNER_GONE_AFTER_S = -1.0  # as if the time had passed
print(services.sweep(), services.sweep())
"""


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of our own."""
    with run_postgres() as url:
        yield url


class Stream:
    """One open SSE stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = b""

    @classmethod
    async def open(cls, web: WebProcess) -> "Stream":
        body = {"model": "scripted", "messages": [{"role": "user", "content": "go"}], "stream": True}
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        payload = json.dumps(body).encode()
        headers = {**web.headers, "Host": "localhost", "Content-Length": str(len(payload)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + payload)
        return cls(reader, writer)

    async def read_chunks(self, num_chunks: int) -> None:
        """Until so many chunks have come."""
        while self.received.count(CHUNK) < num_chunks:
            data = await self.reader.read(65536)
            assert data, self.received
            self.received += data

    async def read_to_end(self) -> bytes:
        self.received += await self.reader.read()
        self.writer.close()
        return self.received


async def open_streams(web: WebProcess, num_streams: int) -> list[Stream]:
    """So many, each of which has sent its first chunk."""
    streams = await asyncio.gather(*(Stream.open(web) for _ in range(num_streams)))
    async with asyncio.timeout(60):
        await asyncio.gather(*(stream.read_chunks(1) for stream in streams))
    return streams


async def test_300_streams_on_postgresql_share_five_connections_and_a_flat_number_of_threads(
    postgres_url: str, tmp_path: Path
) -> None:
    with (
        ScriptedWorker() as worker,
        run_web_process(
            tmp_path, worker_ports=[worker.port], worker_token=worker.token, database_url=postgres_url
        ) as web,
        psycopg.connect(postgres_url, autocommit=True) as database,
    ):
        worker.reply(Answer.of("word1", "word2", "word3", hold_after=1))
        process = psutil.Process(web.process.pid)
        streams = await open_streams(web, 10)
        num_threads_at_10 = process.num_threads()
        streams += await open_streams(web, NUM_STREAMS - 10)
        num_threads = process.num_threads()
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
        (num_connections,) = database.execute(query).fetchone() or (None,)
        print(
            f"{NUM_STREAMS} streams: {num_connections} connections, {num_threads} threads ({num_threads_at_10} at 10)"
        )
        assert num_connections is not None
        assert 1 <= num_connections <= MAX_CONNECTIONS
        assert num_threads <= num_threads_at_10 + 1
        (num_open,) = database.execute("SELECT count(*) FROM usage_usagerecord WHERE status = 'open'").fetchone() or (
            0,
        )
        assert num_open == NUM_STREAMS
        await asyncio.to_thread(worker.release)
        answers = await asyncio.gather(*(stream.read_to_end() for stream in streams))
        assert all(answer.count(CHUNK) == 3 and b"[DONE]" in answer for answer in answers)
        rows = wait_for_rows(
            lambda: database.execute(
                "SELECT status, completion_tokens FROM usage_usagerecord WHERE status <> 'open'"
            ).fetchall(),
            NUM_STREAMS,
        )
        assert set(rows) == {("ok", 3)}


async def test_kill_9_of_the_web_process_loses_no_usage(tmp_path: Path) -> None:
    with (
        ScriptedWorker() as worker,
        run_web_process(tmp_path, worker_ports=[worker.port], worker_token=worker.token) as web,
    ):
        worker.reply(Answer.of(*["word"] * 9, hold_after=5))
        streams = await open_streams(web, 8)
        await asyncio.gather(*(stream.read_chunks(5) for stream in streams))
        with closing(sqlite3.connect(f"file:{tmp_path / 'atrium.sqlite3'}?mode=ro", uri=True)) as database:
            counted = "SELECT id FROM usage_usagerecord WHERE status = 'open' AND completion_tokens = 5"
            await asyncio.to_thread(wait_for_rows, lambda: sqlite_rows(tmp_path, counted), 8)
            web.kill()
            await worker.until(lambda w: w.num_running == 0)
            swept = run_python(web.environment, "-c", _SWEEP)
            rows = database.execute("SELECT status, prompt_tokens, completion_tokens FROM usage_usagerecord").fetchall()
        assert swept.split() == ["8", "0"]
        assert rows == [(UsageStatus.LOST.value, 5, 5)] * 8
        for stream in streams:
            stream.writer.close()


async def test_sigterm_settles_open_streams_as_cancelled(tmp_path: Path) -> None:
    with ScriptedWorker() as worker:
        with run_web_process(tmp_path, worker_ports=[worker.port], worker_token=worker.token) as web:
            worker.reply(Answer.of(*["word"] * 9, hold_after=5))
            streams = await open_streams(web, 4)
            await asyncio.gather(*(stream.read_chunks(5) for stream in streams))
            web.process.terminate()
            await asyncio.to_thread(web.process.wait, 30)
        rows = sqlite_rows(tmp_path, "SELECT status, completion_tokens FROM usage_usagerecord")
        assert rows == [(UsageStatus.CANCELLED.value, 5)] * 4
        for stream in streams:
            stream.writer.close()


def sqlite_rows(data_dir: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{data_dir / 'atrium.sqlite3'}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


def wait_for_rows(read, num_rows: int, timeout_s: float = 30.0) -> list[tuple[object, ...]]:  # type: ignore[no-untyped-def]
    """Rows are written by another process: nothing but asking tells when."""
    deadline_s = time.monotonic() + timeout_s
    while len(rows := read()) < num_rows:
        assert time.monotonic() < deadline_s, f"{len(rows)} of {num_rows} rows"
        time.sleep(0.05)
    return rows
