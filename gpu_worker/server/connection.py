"""One web process's WebSocket: its outgoing frames, and the end of a peer that does not read them.

Knows nothing of requests. Used in the event loop's thread only.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Sequence

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from gpu_worker.protocol import AudioChunk, FromWorker, ProtocolError, Transcribe, encode_from_worker

logger = logging.getLogger(__name__)

# A peer that lets this much pile up, or takes nothing for this long, is cut off: its web process hangs.
MAX_BACKLOG_BYTES = 32 * 1024 * 1024
STALL_TIMEOUT_S = 15.0
# How long the last frames of an orderly close may take.
CLOSE_TIMEOUT_S = 2.0

_numbers = itertools.count(1)


class Connection:
    """Sends without ever blocking its caller. `run_writer` must run beside the reader."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.number = next(_numbers)
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._has_backlog = asyncio.Event()
        self._is_sent = asyncio.Event()
        self._is_cut = False
        self._uploads: dict[str, list[bytes]] = {}

    def take_chunk(self, chunk: AudioChunk) -> None:
        """Keep a piece of a recording until its request comes."""
        self._uploads.setdefault(chunk.id, []).append(chunk.data)

    def complete(self, message: Transcribe) -> Transcribe:
        """The request with the whole of its recording."""
        return msgspec.structs.replace(message, audio=b"".join([*self._uploads.pop(message.id, ()), message.audio]))

    def forget_upload(self, request_id: str) -> None:
        """No request will come for these pieces."""
        self._uploads.pop(request_id, None)

    def post(self, events: Sequence[FromWorker]) -> None:
        """Queue one frame. Silently does nothing once the connection has ended: its reader knows."""
        if self._is_cut:
            return
        try:
            frame = encode_from_worker(events)
        except ProtocolError as error:
            self._cut(str(error))
            return
        self._backlog.append(frame)
        self._backlog_bytes += len(frame)
        self._has_backlog.set()
        if self._backlog_bytes > MAX_BACKLOG_BYTES:
            self._cut(f"{self._backlog_bytes} bytes wait for it")

    async def run_writer(self) -> None:
        """Send what is posted, in order, until the connection ends."""
        try:
            while True:
                await self._has_backlog.wait()
                self._has_backlog.clear()
                while self._backlog:
                    frame = self._backlog.popleft()
                    async with asyncio.timeout(STALL_TIMEOUT_S):
                        await self.socket.send(frame)
                    self._backlog_bytes -= len(frame)
                    self._is_sent.set()
        except TimeoutError:
            self._cut(f"it has read nothing for {STALL_TIMEOUT_S:.0f} s")
        except ConnectionClosed:
            self._is_cut = True

    async def close(self, code: int, reason: str) -> None:
        """Send what is left, for a while, and close in order."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._backlog_bytes and not self._is_cut:
                    await self._is_sent.wait()
                    self._is_sent.clear()
        except TimeoutError:
            logger.warning("connection %d does not read its last events", self.number)
        self._is_cut = True
        await self.socket.close(code, reason)

    def _cut(self, reason: str) -> None:
        """End the connection without waiting for a peer that does not listen. The reader wakes up at once."""
        logger.warning("connection %d is cut off: %s", self.number, reason)
        self._is_cut = True
        self._backlog.clear()
        self.socket.transport.abort()
