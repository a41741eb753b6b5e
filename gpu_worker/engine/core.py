"""The one thread that loads a model and runs its engine, and the ways other threads talk to it.

libgomp keeps a team of worker threads for every thread that ever ran a parallel operator, and two teams on the same
cores halve each other's speed: so loading and every step happen here, and nowhere else in the process.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from gpu_worker.engine.base import Engine, EngineOutput, EngineRequest, EngineStats

logger = logging.getLogger(__name__)

# Called in the engine thread with what one step produced; may be called with no outputs when only the load changed.
Deliver = Callable[[list[EngineOutput], EngineStats], None]

STEP_FAILED = "The engine failed while it computed this request."
STOPPED = "The engine has stopped."


class EngineStoppedError(Exception):
    """The engine thread has ended: nothing can be submitted any more."""


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class _Call:
    """Inbox message: something to do between two steps."""

    function: Callable[[], None]


class _Stop:
    """Inbox message: end the loop."""


class EngineLoop:
    """Runs an engine in a thread of its own.

    `load` runs in that thread and returns the engine; `loaded` then holds it, or the exception that `load` raised
    (in which case the thread has ended). `deliver` is called in that thread once per step, and must neither block
    nor raise; there, and only there, the engine itself may be asked for more (`queue_position`).
    `ended` is resolved last, with None after `stop()` or the exception that made the engine unusable.
    """

    def __init__(self, load: Callable[[], Engine], deliver: Deliver) -> None:
        self.loaded: Future[Engine] = Future()
        self.ended: Future[BaseException | None] = Future()
        self._load = load
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[EngineRequest | _Abort | _Call | _Stop] = queue.SimpleQueue()
        self._is_closed = False
        self._closing = threading.Lock()  # orders `submit` and the final drain: no request falls between
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread, which begins to load."""
        self._thread.start()

    def submit(self, request: EngineRequest) -> None:
        """Hand a request over, from any thread. Raises EngineStoppedError; every other outcome is delivered."""
        with self._closing:
            if self._is_closed:
                raise EngineStoppedError(STOPPED)
            self._inbox.put(request)

    def abort(self, request_id: str) -> None:
        """End a request before the next step, from any thread. Delivered as an "abort" unless it ended earlier."""
        self._inbox.put(_Abort(request_id))

    def call(self, function: Callable[[], None]) -> None:
        """Call the function in the engine thread, between two steps, from any thread. What it raises is logged."""
        self._inbox.put(_Call(function))

    def stop(self, timeout_s: float | None = None) -> None:
        """End the loop after the step under way; what still runs is failed. Waits for the thread, from any other."""
        self._inbox.put(_Stop())
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            engine = self._load()
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: whoever waits for `loaded` gets it
            self._close(None)
            self.loaded.set_exception(error)
            self.ended.set_result(error)
            return
        self.loaded.set_result(engine)
        fault = self._loop(engine)
        self._close(engine)
        self.ended.set_result(fault)

    def _loop(self, engine: Engine) -> BaseException | None:
        """Serve until stopped (None) or until something fails that cannot be mended (the exception)."""
        try:
            while True:
                outputs, is_stopping = self._drain(engine)
                if not is_stopping and engine.has_work():
                    outputs += self._step(engine)
                self._deliver(outputs, engine.stats())
                if is_stopping:
                    return None
        except Exception as error:
            logger.critical("the engine has to stop", exc_info=True)
            return error

    @staticmethod
    def _step(engine: Engine) -> Sequence[EngineOutput]:
        try:
            return engine.step()
        except Exception:
            logger.exception("a step failed: all its requests are failed and the engine is reset")
            return engine.reset(STEP_FAILED)

    def _drain(self, engine: Engine) -> tuple[list[EngineOutput], bool]:
        """Take everything from the inbox, and wait for something when there is nothing else to do."""
        outputs: list[EngineOutput] = []
        must_wait = not engine.has_work()
        while True:
            try:
                message = self._inbox.get(block=must_wait)
            except queue.Empty:
                return outputs, False
            must_wait = False
            if isinstance(message, _Stop):
                return outputs, True
            if isinstance(message, _Abort):
                if (output := engine.abort(message.request_id)) is not None:
                    outputs.append(output)
            elif isinstance(message, _Call):
                self._call(message.function)
            else:
                engine.add(message)

    @staticmethod
    def _call(function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            logger.exception("what was to be done between two steps failed")

    def _close(self, engine: Engine | None) -> None:
        """Refuse new requests and fail those that are left, in the engine and in the inbox."""
        with self._closing:
            self._is_closed = True
        left: list[EngineOutput] = []
        while not self._inbox.empty():
            message = self._inbox.get_nowait()
            if not isinstance(message, _Abort | _Call | _Stop):
                left.append(message.fail(STOPPED))
        stats = EngineStats(num_running=0, num_waiting=0, free_blocks=0, num_blocks=0, num_steps=0)
        if engine is not None:
            try:
                left += engine.reset(STOPPED)
                stats = engine.stats()
            except Exception:
                logger.exception("the engine could not be reset while it stopped")
        if left:
            try:
                self._deliver(left, stats)
            except Exception:
                logger.exception("the last outputs could not be delivered")
