"""What the router and `generate()` rely on, whichever engine answers. Knows no wire."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from apps.core.errors import RequestTimeout
from gpu_worker.protocol import (
    Delta,
    Detokenized,
    Failed,
    Finished,
    ModelInfo,
    Progress,
    Started,
    Submission,
    Tokenized,
    Usage,
    Vectors,
)

StreamEvent = Started | Progress | Delta | Vectors | Tokenized | Detokenized | Finished | Failed
# Told once, when an aborted request has ended at the engine: its exact usage, or None when that was never said.
OnAborted = Callable[[Usage | None], None]

# A client that reads nothing for so many steps is taken for gone; the rest of its batch must not wait for it,
# and what it leaves unread must not fill the memory.
MAX_BUFFERED_EVENTS = 2048


class LinkLost(Exception):
    """The replica's connection has ended: nothing more comes of this attempt; another replica may continue it."""


class SlowConsumer(RequestTimeout):
    """The reader of this stream left more than MAX_BUFFERED_EVENTS unread; the request has been aborted."""

    code = "client_too_slow"

    def __init__(self) -> None:
        super().__init__("The answer was read too slowly.")


class RequestStream:
    """Events of one attempt, in order, for one reader. Used on one event loop; never blocks the link that fills it."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.usage: Usage | None = None  # set by the link when the engine has said the final counts
        self.error: Exception | None = None
        self._events: deque[StreamEvent] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def pop(self) -> StreamEvent | None:
        """The next event, or None for now. Raises LinkLost or SlowConsumer once what has arrived is handed out."""
        if self._events:
            return self._events.popleft()
        if self.error is not None:
            raise self.error
        return None

    def wait(self) -> asyncio.Future[None]:
        """Done when there is something to `pop`. To be awaited at once."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def push(self, event: StreamEvent) -> bool:
        """Called by the link. False when the reader has fallen too far behind: the event is dropped."""
        if len(self._events) >= MAX_BUFFERED_EVENTS:
            return False
        self._events.append(event)
        if self._waiter is not None:
            self._wake()
        return True

    def fail(self, error: Exception) -> None:
        """Called by the link: the stream ends with this error once what has arrived is read."""
        self.error = error
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class ReplicaLink(Protocol):
    """One web process's view of one replica. All methods belong to the event loop that the link was made on."""

    replica_id: str

    @property
    def info(self) -> ModelInfo | None:
        """What the loaded model can do; None while requests cannot be submitted."""

    @property
    def progress(self) -> float | None:
        """How far the model is loaded, 0 to 1, as the replica itself last said."""

    @property
    def load(self) -> int:
        """Requests in the replica's batch or queue, from every web process, as far as known here."""

    @property
    def attempt(self) -> tuple[str, int]:
        """Changes with every new connection: an engine that was restarted is another one."""

    def submit(self, message: Submission) -> RequestStream:
        """Send a request. Returns at once; a link that is lost meanwhile says so through the stream."""

    def abort(self, stream: RequestStream, on_aborted: OnAborted) -> None:
        """Stop a request, without waiting. One that has ended already calls back at once."""

    def hang_up(self) -> None:
        """End the link soon. Streams that are still open get LinkLost."""

    async def close(self) -> None:
        """Hang up and wait until it is done."""
