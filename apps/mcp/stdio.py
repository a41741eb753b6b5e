"""A server of tools that is a program on this machine: started in its folder, with its environment and no other.

Ended with all that it started when the connection ends. Reads at most so many bytes of it. Slow to import.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import cast

import anyio
import mcp_types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from apps.mcp.servers import StdioTarget

GRACE_S = 1.0  # to end by itself when it is told no more
_PATH = "/usr/local/bin:/usr/bin:/bin"

Received = MemoryObjectReceiveStream[SessionMessage | Exception]
Sent = MemoryObjectSendStream[SessionMessage]


@asynccontextmanager
async def run_program(target: StdioTarget, max_bytes: int) -> AsyncGenerator[tuple[Received, Sent], None]:
    """The transport of the SDK: messages from the program, and messages to it. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        target.command,
        *target.arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        cwd=target.folder,
        env={"PATH": _PATH, **target.env},
        start_new_session=True,
        limit=max_bytes,
    )
    to_session, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    sent, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with to_session, received, sent, from_session, anyio.create_task_group() as group:
            group.start_soon(_read, process, to_session, max_bytes)
            group.start_soon(_write, process, from_session)
            try:
                yield received, sent
            finally:
                group.cancel_scope.cancel()
    finally:
        await asyncio.shield(_end(process))


async def _read(process: Process, to_session: MemoryObjectSendStream[SessionMessage | Exception], left: int) -> None:
    async with to_session:
        # A line longer than the limit is a ValueError of the reader's own.
        with suppress(ValueError, anyio.BrokenResourceError, ConnectionError):
            while line := await cast(asyncio.StreamReader, process.stdout).readline():
                left -= len(line)
                if left < 0:
                    return
                await to_session.send(_parse(line))


async def _write(process: Process, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
    stdin = cast(asyncio.StreamWriter, process.stdin)
    with suppress(anyio.BrokenResourceError, ConnectionError):
        async for message in from_session:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            stdin.write(line.encode() + b"\n")
            await stdin.drain()


def _parse(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _end(process: Process) -> None:
    """Its group is killed, also where the program itself has ended and left others."""
    if process.stdin is not None:
        process.stdin.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
