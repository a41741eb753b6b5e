"""The link to a replica of our own engine: one WebSocket, one frame per engine step. Knows no routing, no usage."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TypeGuard

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from apps.inference.clients.base import LinkLost, OnAborted, RequestStream, SlowConsumer, StreamEvent
from apps.inference.clients.outbox import Outbox
from gpu_worker.protocol import (
    MAX_FRAME_BYTES,
    Abort,
    Delta,
    Detokenized,
    Failed,
    Finished,
    FromWorker,
    Loading,
    ModelInfo,
    Ping,
    Pong,
    Progress,
    ProtocolError,
    Ready,
    Started,
    Submission,
    Tokenized,
    Vectors,
    decode_from_worker,
)

PING_INTERVAL_S = 1.0
DEAD_AFTER_S = 5.0  # without a frame, though pinged
CONNECT_TIMEOUT_S = 5.0
RECONNECT_DELAYS_S = (0.05, 0.1, 0.25, 0.5)  # then again and again the last one
GIVE_UP_AFTER_S = 30.0  # without a connection: the pool makes a new link when the replica is still wanted

_OfRequest = (Delta, Finished, Started, Progress, Vectors, Tokenized, Detokenized, Failed)  # the most frequent first

logger = logging.getLogger(__name__)


class NativeLink:
    """Dials, and dials again, until closed; between connections every stream ends with LinkLost.

    Used on one event loop only. `on_change` is called whenever readiness or progress changes, and on the end.
    """

    def __init__(self, *, replica_id: str, url: str, token: str, on_change: Callable[[], None]) -> None:
        self.replica_id = replica_id
        self.url = url
        self.token = token
        self.info: ModelInfo | None = None
        self.progress: float | None = None
        self.ended = False  # given up or closed: make another one
        self._on_change = on_change
        self._num_connections = 0
        self._pong = Pong(0)
        self._heard_at_s = 0.0
        self._streams: dict[str, RequestStream] = {}
        self._aborting: dict[str, tuple[OnAborted, float]] = {}  # with the time to stop waiting for the worker
        self._outbox = Outbox()
        self._task = asyncio.create_task(self._run(), name=f"replica-link-{replica_id}")

    @property
    def load(self) -> int:
        """The larger of what we have submitted and what the worker last said of everybody's."""
        return max(len(self._streams), self._pong.num_running + self._pong.num_waiting)

    @property
    def attempt(self) -> tuple[str, int]:
        """Which connection this is: a restarted worker answers on another one."""
        return self.replica_id, self._num_connections

    def submit(self, message: Submission) -> RequestStream:
        """Queue the request for sending. Raises ProtocolError when it exceeds a frame."""
        stream = RequestStream(message.id)
        if self.info is None:
            stream.fail(LinkLost())
            return stream
        self._outbox.put(message)
        self._streams[message.id] = stream
        return stream

    def abort(self, stream: RequestStream, on_aborted: OnAborted) -> None:
        """Tell the worker, which answers with the request's final usage; calls back at once when it is over."""
        if self._streams.get(stream.id) is not stream:
            on_aborted(stream.usage)
            return
        self._aborting[stream.id] = (on_aborted, time.monotonic() + DEAD_AFTER_S)
        if stream.error is None:  # else the link itself has aborted it
            stream.fail(LinkLost())
            if self._outbox.withdraw(stream.id):
                self._expire_abort(stream.id)
            self._outbox.put(Abort(stream.id))

    def hang_up(self) -> None:
        """End the link soon, without waiting for it."""
        self._task.cancel()

    async def close(self) -> None:
        """Hang up and wait until it is done. Idempotent."""
        self._task.cancel()
        await asyncio.wait([self._task])

    # --- the connection ---

    async def _run(self) -> None:
        connected_at_s = time.monotonic()
        num_failures = 0
        try:
            while time.monotonic() - connected_at_s < GIVE_UP_AFTER_S:
                num_connections = self._num_connections
                await self._connect_once()
                if self._num_connections != num_connections:
                    connected_at_s, num_failures = time.monotonic(), 0
                delay_s = RECONNECT_DELAYS_S[min(num_failures, len(RECONNECT_DELAYS_S) - 1)]
                num_failures += 1
                await asyncio.sleep(delay_s)
        except Exception:
            logger.exception("the link to replica %s broke", self.replica_id)
        finally:
            self.ended = True
            self._on_change()

    async def _connect_once(self) -> None:
        """From dialling to the end of the connection, whatever ends it."""
        try:
            async with connect(
                self.url,
                additional_headers={"Authorization": f"Bearer {self.token}"},
                compression=None,
                proxy=None,
                ping_interval=None,  # the protocol's own Ping also says how loaded the worker is
                open_timeout=CONNECT_TIMEOUT_S,
                close_timeout=0.5,
                max_size=MAX_FRAME_BYTES,
                max_queue=None,  # frames are taken out as they come: the limit is each stream's own
            ) as connection:
                self._num_connections += 1
                self._heard_at_s = time.monotonic()
                await self._exchange(connection)
        except (OSError, TimeoutError, WebSocketException, ProtocolError) as error:
            logger.info("replica %s at %s: %s", self.replica_id, self.url, error or type(error).__name__)
        finally:
            self._lose_everything()

    async def _exchange(self, connection: ClientConnection) -> None:
        """Read until the connection ends; whatever breaks the other two tasks ends it too."""
        tasks = [asyncio.create_task(self._write(connection)), asyncio.create_task(self._ping(connection))]
        try:
            async for frame in connection:
                self._heard_at_s = time.monotonic()
                self._dispatch(decode_from_worker(frame if isinstance(frame, bytes) else frame.encode()))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _write(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader learns of it too
            while True:
                await self._outbox.wait()
                await connection.send(self._outbox.take_frame())

    async def _ping(self, connection: ClientConnection) -> None:
        nonce = 0
        while time.monotonic() - self._heard_at_s < DEAD_AFTER_S:
            self._outbox.put(Ping(nonce))
            nonce += 1
            await asyncio.sleep(PING_INTERVAL_S)
            self._expire_aborts()
        logger.warning("replica %s has said nothing for %.0f s", self.replica_id, DEAD_AFTER_S)
        connection.transport.abort()

    def _expire_aborts(self) -> None:
        now_s = time.monotonic()
        for request_id, (_, until_s) in list(self._aborting.items()):
            if now_s > until_s:
                self._expire_abort(request_id)

    def _expire_abort(self, request_id: str) -> None:
        on_aborted, _ = self._aborting.pop(request_id)
        del self._streams[request_id]
        on_aborted(None)

    def _lose_everything(self) -> None:
        self.info = None
        self.progress = None
        self._pong = Pong(0)
        self._outbox.clear()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(LinkLost())
        aborting, self._aborting = self._aborting, {}
        for on_aborted, _ in aborting.values():
            on_aborted(None)
        self._on_change()

    # --- the frames ---

    def _dispatch(self, events: list[FromWorker]) -> None:
        """Hand one step's events to their streams. The hot loop of the web process: no awaits, no tasks."""
        for event in events:
            if type(event) is not Delta and not isinstance(event, _OfRequest):
                self._note_state(event)
                continue
            stream = self._streams.get(event.id)
            if stream is None:
                continue
            if type(event) is not Delta and _is_last(event):
                self._end(stream, event)
            if stream.error is None and not stream.push(event):
                stream.fail(SlowConsumer())
                self._outbox.put(Abort(stream.id))

    def _end(self, stream: RequestStream, event: Finished | Failed | Tokenized | Detokenized) -> None:
        del self._streams[stream.id]
        stream.usage = event.usage if isinstance(event, Finished | Failed) else None
        aborting = self._aborting.pop(stream.id, None)
        if aborting is not None:
            aborting[0](stream.usage)

    def _note_state(self, event: Loading | Ready | Pong) -> None:
        if isinstance(event, Pong):
            self._pong = event
            return
        if isinstance(event, Ready):
            self.info, self.progress = event.info, 1.0
        else:
            self.info, self.progress = None, event.progress
        self._on_change()


def _is_last(event: StreamEvent) -> TypeGuard[Finished | Failed | Tokenized | Detokenized]:
    return isinstance(event, Failed | Tokenized | Detokenized) or (isinstance(event, Finished) and event.last)
