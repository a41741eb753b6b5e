"""A peer that does not read is cut off and holds up no one; real sockets on both ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from gpu_worker.protocol import Delta, Pong, decode_from_worker
from gpu_worker.server import connection as connection_module
from gpu_worker.server.connection import Connection

BIG = Delta(id="r", text="x" * 100_000)


class Host:
    """A server whose connections are the ones under test."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.has_ended = asyncio.Event()

    async def handle(self, socket: ServerConnection) -> None:
        connection = Connection(socket)
        writer = asyncio.create_task(connection.run_writer())
        self.connections.put_nowait(connection)
        try:
            await socket.wait_closed()
        finally:
            self.has_ended.set()
            writer.cancel()

    @asynccontextmanager
    async def run(self) -> AsyncIterator["Host"]:
        async with serve(self.handle, "127.0.0.1", 0, compression=None) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@asynccontextmanager
async def deaf_peer(port: int) -> AsyncIterator[None]:
    """Shakes hands and never reads again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    try:
        yield
    finally:
        writer.transport.abort()


async def test_backlog_beyond_the_limit_cuts_the_connection() -> None:
    async with Host().run() as host, deaf_peer(host.port):
        connection = await host.connections.get()
        for _ in range(connection_module.MAX_BACKLOG_BYTES // 100_000 - 5):
            connection.post([BIG])
        await asyncio.sleep(0)
        assert not host.has_ended.is_set()
        for _ in range(100):
            connection.post([BIG])
        async with asyncio.timeout(5):
            await host.has_ended.wait()


async def test_peer_that_reads_nothing_for_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT_S", 0.3)
    async with Host().run() as host, deaf_peer(host.port):
        connection = await host.connections.get()
        for _ in range(100):
            connection.post([BIG])
        async with asyncio.timeout(5):
            await host.has_ended.wait()


async def test_deaf_peer_does_not_delay_another() -> None:
    async with Host().run() as host, deaf_peer(host.port):
        deaf = await host.connections.get()
        async with connect(f"ws://127.0.0.1:{host.port}", compression=None) as socket:
            healthy = await host.connections.get()
            for nonce in range(50):
                deaf.post([BIG])
                start_s = time.monotonic()
                healthy.post([Pong(nonce=nonce)])
                assert decode_from_worker(await socket.recv()) == [Pong(nonce=nonce)]
                assert time.monotonic() - start_s < 0.5


async def test_frames_arrive_in_order_and_whole() -> None:
    async with Host().run() as host, connect(f"ws://127.0.0.1:{host.port}", compression=None) as socket:
        connection = await host.connections.get()
        sent = [Delta(id=str(i), text="é" * i) for i in range(0, 5000, 7)]
        for delta in sent:
            connection.post([delta])
        received = [event for _ in sent for event in decode_from_worker(await socket.recv())]
        assert received == sent


async def test_close_sends_what_is_left_first() -> None:
    async with Host().run() as host, connect(f"ws://127.0.0.1:{host.port}", compression=None) as socket:
        connection = await host.connections.get()
        for _ in range(30):
            connection.post([BIG])
        closing = asyncio.create_task(connection.close(1001, "stopping"))
        received = [frame async for frame in socket]
        await closing
        assert len(received) == 30
        assert socket.close_reason == "stopping"
