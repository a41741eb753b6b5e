"""All requests of all connections: from `Generate` to the engine, and from its steps to frames.

Event loop thread only, but for `deliver`, which the engine calls in its own.
"""

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from gpu_worker.engine.base import Engine, EngineOutput, EngineStats
from gpu_worker.engine.core import EngineLoop, EngineStoppedError
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.protocol import FailureCode, FromWorker, Generate, Progress, Submission, Task
from gpu_worker.server.active import ActiveRequest
from gpu_worker.server.adapters import AdapterTable
from gpu_worker.server.connection import Connection
from gpu_worker.server.status import WorkerStatus
from gpu_worker.server.submissions import Frontend, check_task, find_media, make_active, prepare

logger = logging.getLogger(__name__)

# Templates and tokenization. Two, so that one very long prompt does not hold up the short ones.
_NUM_PREPARE_THREADS = 2
# Decoding pictures takes long, and is not to hold up texts.
_NUM_MEDIA_THREADS = 1
_PROGRESS_INTERVAL_S = 1.0
# Of recordings that wait: a gigabyte is more than four hours of samples.
MAX_HELD_BYTES = 1024 * 1024 * 1024
_OVERLOADED = "The model is overloaded. Please try again later."


class Serving(NamedTuple):
    """What there is once the model is loaded."""

    engine_loop: EngineLoop
    engine: Engine
    frontend: Frontend
    task: Task
    adapters: AdapterTable | None = None  # None: for a task that has none


Frames = dict[Connection, list[FromWorker]]


class RequestTable:
    """Owns every active request. `open` makes it accept; before that requests are refused as not ready."""

    def __init__(self, status: WorkerStatus, max_choices: int) -> None:
        """At most `max_choices` sequences may run and wait together; more are refused as overloaded."""
        self._status = status
        self._max_choices = max_choices
        self._num_choices = 0
        self._active: dict[str, ActiveRequest] = {}
        self._choices: dict[Any, tuple[ActiveRequest, Any]] = {}  # by the engine's own request
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(_NUM_PREPARE_THREADS, thread_name_prefix="prepare")
        self._media_pool = ThreadPoolExecutor(_NUM_MEDIA_THREADS, thread_name_prefix="prepare-media")
        self._loop = asyncio.get_running_loop()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._last_progress_s = 0.0
        self._serving: Serving | None = None

    def open(self, serving: Serving) -> None:
        """From here on requests are accepted."""
        self._serving = serving
        self._status.idle_since_s = time.monotonic()

    def start(self, connection: Connection, message: Submission) -> None:
        """Begin a request. Every outcome is an event."""
        serving = self._serving
        if self._status.status != "ready" or serving is None:
            self._refuse(connection, message, "not_ready", f"The model is not ready: it is {self._status.status}.")
            return
        if message.id in self._active:
            self._refuse(connection, message, "invalid_request", "A request with this id is running already.")
            return
        active = make_active(message, connection)
        self._active[message.id] = active
        if self._num_choices + active.num_choices > self._max_choices or self._holds_too_much(active):
            del self._active[message.id]
            self._refuse(connection, message, "overloaded", _OVERLOADED)
            return
        self._num_choices += active.num_choices
        self._is_idle.clear()
        self._status.idle_since_s = None
        task = asyncio.create_task(self._prepare(active, message, serving))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abort(self, connection: Connection, request_id: str) -> None:
        """Stop a request of this connection. One that has ended, or is another's, is left alone."""
        active = self._active.get(request_id)
        if active is None or active.connection is not connection:
            return
        if active.choices:
            self._abort_choices(active)  # answered by the engine
        else:
            self._close(active)
            connection.post(active.abort_unstarted())

    def drop(self, connection: Connection) -> None:
        """Abort everything of a connection that has ended."""
        left = [active for active in self._active.values() if active.connection is connection]
        for active in left:
            self._close(active)
        if left:
            logger.info("connection %d has ended: %d requests aborted", connection.number, len(left))

    def fail_all(self, code: FailureCode, text: str) -> None:
        """End every active request with an error that its web process may answer by going elsewhere."""
        for active in list(self._active.values()):
            failed = active.fail(code, text)
            self._close(active)
            active.connection.post([failed])

    async def wait_idle(self) -> None:
        """Until no request is active."""
        await self._is_idle.wait()

    def shut_down(self) -> None:
        """Release the threads. Requests must have ended."""
        for pool in (self._pool, self._media_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        if self._serving is not None and self._serving.adapters is not None:
            self._serving.adapters.shut_down()

    def deliver(self, outputs: list[EngineOutput], stats: EngineStats) -> None:
        """The engine loop's callback, in the engine thread: hand over, and look at the queue once a second."""
        positions: list[tuple[Any, int]] = []
        now = time.monotonic()
        if stats.num_waiting and self._serving is not None and now - self._last_progress_s >= _PROGRESS_INTERVAL_S:
            self._last_progress_s = now
            for request in list(self._choices):  # one bytecode: the other thread cannot interrupt the copy
                if (position := self._serving.engine.queue_position(request.id)) is not None:
                    positions.append((request, position))
        with contextlib.suppress(RuntimeError):  # the loop has closed: the process ends, and nobody waits any more
            self._loop.call_soon_threadsafe(self._on_step, outputs, stats, positions)

    def _on_step(self, outputs: list[EngineOutput], stats: EngineStats, positions: list[tuple[Any, int]]) -> None:
        self._status.stats = stats
        frames: Frames = {}
        for request, position in positions:
            self._read_position(request, position, frames)
        for output in outputs:
            self._read_output(output, frames)
        for connection, events in frames.items():
            connection.post(events)

    def _read_position(self, request: Any, position: int, frames: Frames) -> None:
        active, choice = self._choices.get(request, (None, None))
        if active is None or choice is None or choice.index or choice.num_tokens or active.queue_position == position:
            return
        active.queue_position = position
        frames.setdefault(active.connection, []).append(Progress(active.id, position))

    def _read_output(self, output: EngineOutput, frames: Frames) -> None:
        active, choice = self._choices.get(output.request, (None, None))
        if active is None or choice is None:  # aborted meanwhile
            return
        events = frames.setdefault(active.connection, [])
        if output.error is not None:
            events.append(active.fail(output.error_code, output.error, output.error_param))
        else:
            events += active.read(choice, output)
        if active.is_closed:
            self._close(active)

    async def _prepare(self, active: ActiveRequest, message: Submission, serving: Serving) -> None:
        try:
            check_task(message, serving.task)
            await self._hold_adapter(active, message, serving.adapters)
            pool = self._media_pool if find_media(message) else self._pool
            prepared = await self._loop.run_in_executor(pool, prepare, serving.frontend, message)
            if not active.is_closed:
                self._submit(active, message, prepared, serving)
        except RequestRejected as error:
            logger.info("request %s refused: %s (%s)", active.id, error.code, error.param)
            self._fail(active, error.code, error.message, error.param)
        except EngineStoppedError:
            self._fail(active, "not_ready", "The worker is stopping.")
        except Exception:
            logger.exception("request %s could not be prepared", active.id)
            self._fail(active, "internal", "The request could not be prepared.")

    @staticmethod
    async def _hold_adapter(active: ActiveRequest, message: Submission, adapters: AdapterTable | None) -> None:
        if not isinstance(message, Generate) or message.adapter is None or adapters is None:
            return
        held = await adapters.hold(message.adapter)
        if active.is_closed:  # meanwhile
            adapters.release(held)
        else:
            active.adapter = held

    def _submit(self, active: ActiveRequest, message: Submission, prepared: Any, serving: Serving) -> None:
        events = active.begin(message, prepared)
        if self._holds_too_much(active):  # samples are larger than their file
            self._fail(active, "overloaded", _OVERLOADED)
            return
        active.connection.post(events)
        if active.is_closed:
            self._close(active)
            return
        for choice in active.choices:
            if not choice.is_finished:
                self._choices[choice.request] = (active, choice)
                serving.engine_loop.submit(choice.request)

    def _holds_too_much(self, newest: ActiveRequest) -> bool:
        """Whether this recording is one too many."""
        if not newest.held_bytes:
            return False
        return sum(active.held_bytes for active in self._active.values()) > MAX_HELD_BYTES

    def _refuse(self, connection: Connection, message: Submission, code: FailureCode, text: str) -> None:
        logger.info("request %s refused: %s", message.id, code)
        connection.post([ActiveRequest(message.id, connection, 0).fail(code, text)])

    def _fail(self, active: ActiveRequest, code: FailureCode, text: str, param: str | None = None) -> None:
        if active.is_closed:
            return
        failed = active.fail(code, text, param)
        self._close(active)
        active.connection.post([failed])

    def _close(self, active: ActiveRequest) -> None:
        """Forget a request, and end what the engine still runs for it. Its late outputs find no one."""
        active.is_closed = True
        if self._active.pop(active.id, None) is None:
            return
        self._num_choices -= active.num_choices
        if active.adapter is not None and self._serving is not None and self._serving.adapters is not None:
            self._serving.adapters.release(active.adapter)
        self._abort_choices(active)
        for choice in active.choices:
            self._choices.pop(choice.request, None)
        if not self._active:
            self._is_idle.set()
            self._status.idle_since_s = time.monotonic()

    def _abort_choices(self, active: ActiveRequest) -> None:
        for choice in active.choices:
            if not choice.is_finished and self._serving is not None:
                self._serving.engine_loop.abort(choice.request.id)
