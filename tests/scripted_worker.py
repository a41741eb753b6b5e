"""A worker that speaks gpu_worker.protocol over a real WebSocket and says what a test tells it to say.

It stands in for the engine alone: connections, frames, tokens, aborts and deaths are real. Its "tokens" have the
ids 1, 2, 3 ... by position in the answer, so that a resumed request can be checked and continued exactly.
In a test it runs in a thread (`ScriptedWorker`); `python -m tests.scripted_worker --help` runs it as a process.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from gpu_worker.protocol import (
    MAX_FRAME_BYTES,
    Abort,
    Delta,
    Generate,
    Loading,
    ModelInfo,
    Ping,
    Ready,
    ToWorker,
    decode_to_worker,
    encode_from_worker,
)
from tests.scripted_engine import Answer, ScriptedEngine

__all__ = ["Answer", "ScriptedWorker"]

WAIT_S = 30.0  # how long a test waits for something to happen before it fails
MODEL_INFO = ModelInfo(
    architecture="ScriptedForCausalLM",
    engine="paged",
    dtype="float32",
    device="cpu",
    max_model_len=4096,
    vocab_size=1000,
    has_chat_template=True,
    supports_tools=True,
    supports_reasoning=True,
)


@dataclass(eq=False)
class _Connection:
    """One web process and its requests."""

    socket: ServerConnection
    engine: ScriptedEngine
    work: asyncio.Event = field(default_factory=asyncio.Event)  # set when a step may have something to do


class ScriptedWorker:
    """The worker. All public methods may be called from any thread; `with` starts and kills it."""

    def __init__(self, *, token: str = "scripted-token", step_s: float = 0.0, host: str = "127.0.0.1", port: int = 0):
        self.host = host
        self.port = port
        self.token = token
        self.step_s = step_s
        self.info = MODEL_INFO
        self.answer: Callable[[Generate], Answer] = lambda message: Answer()
        self.received: list[ToWorker] = []  # everything but pings
        self.num_connections = 0
        self.num_sent = 0  # deltas, of all requests
        self.loading: Loading | None = None  # while set: not ready
        self.mute = False  # while true: says nothing at all, as a hung process does
        self._changed = threading.Condition()
        self._connections: set[_Connection] = set()
        self._server: Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    # --- life ---

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="scripted-worker", daemon=True)
        self._thread.start()
        self.restart()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join(WAIT_S)
        self._loop.close()

    @property
    def url(self) -> str:
        """Where a web process dials."""
        return f"ws://{self.host}:{self.port}"

    def kill(self) -> None:
        """Drop every connection and stop listening, at once and without a word, as kill -9 does."""
        self._call(self._kill())

    def restart(self) -> None:
        """Listen (again), on the same port as before, knowing nothing of what was."""
        self._call(self._listen())

    # --- behaviour ---

    def say(self, *texts: str, **fields: object) -> Answer:
        """Answer every following request with these texts, one token each. Returns the answer."""
        return self.reply(Answer.of(*texts, **fields))

    def reply(self, answer: Answer) -> Answer:
        """Answer every following request so."""
        self.answer = lambda message: answer
        return answer

    def release(self) -> None:
        """Let everything that is held go on to its end."""
        self._call(self._release())

    def set_loading(self, progress: float, stage: str = "") -> None:
        """Not ready (any more) from the next connection on; tells who is connected of the progress."""
        self._call(self._tell(Loading(progress, stage)))

    def set_ready(self) -> None:
        """Loaded: tells everybody who is connected."""
        self._call(self._tell(None))

    # --- what a test may wait for ---

    def wait_for(self, condition: Callable[[Self], bool], timeout_s: float = WAIT_S) -> None:
        """Returns when the condition holds; raises TimeoutError. Checked whenever something happens here."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout_s):
                raise TimeoutError("the scripted worker never came to the state that the test waits for")

    async def until(self, condition: Callable[[Self], bool], timeout_s: float = WAIT_S) -> None:
        """`wait_for` for asynchronous tests: the caller's event loop goes on meanwhile."""
        await asyncio.to_thread(self.wait_for, condition, timeout_s)

    @property
    def generates(self) -> list[Generate]:
        """Requests received so far, in order."""
        return [message for message in self.received if isinstance(message, Generate)]

    @property
    def aborted(self) -> list[str]:
        """Ids of the aborts received so far, in order."""
        return [message.id for message in self.received if isinstance(message, Abort)]

    @property
    def num_running(self) -> int:
        """Requests that have neither finished nor been aborted."""
        return sum(len(connection.engine.requests) for connection in list(self._connections))

    # --- inside the thread ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)

    async def _listen(self) -> None:
        # By address, not by a socket of our own, for which asyncio leaves TCP_NODELAY off: 40 ms between two frames.
        self._server = await serve(
            self._serve,
            self.host,
            self.port,
            compression=None,
            ping_interval=None,
            max_size=MAX_FRAME_BYTES,
            process_request=self._answer_http,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def _kill(self) -> None:
        if self._server is None:
            return
        for connection in self._connections:
            connection.socket.transport.abort()
        self._server.close()
        await self._server.wait_closed()
        self._server = None

    async def _release(self) -> None:
        for connection in self._connections:
            connection.engine.release()
            connection.work.set()

    async def _tell(self, loading: Loading | None) -> None:
        self.loading = loading
        for connection in list(self._connections):
            await connection.socket.send(encode_from_worker([loading or Ready(self.info)]))

    def _answer_http(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/health":
            status = "loading" if self.loading else "ready"
            body = json.dumps({"status": status, "info": msgspec.to_builtins(self.info)}).encode()
            code = HTTPStatus.SERVICE_UNAVAILABLE if self.loading else HTTPStatus.OK
            return Response(code.value, code.phrase, Headers({"Content-Type": "application/json"}), body)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "a valid token is required\n")
        return None

    def _find_answer(self, message: Generate) -> Answer:
        return self.answer(message)  # as it is now: tests change it while connections last

    async def _serve(self, ws: ServerConnection) -> None:
        connection = _Connection(ws, ScriptedEngine(self._find_answer))
        self._connections.add(connection)
        self._note(lambda: setattr(self, "num_connections", self.num_connections + 1))
        stepping = asyncio.create_task(self._step_forever(connection))
        try:
            await ws.send(encode_from_worker([self.loading or Ready(self.info)]))
            async for frame in ws:
                assert isinstance(frame, bytes)
                await self._receive(connection, decode_to_worker(frame))
        except ConnectionClosed:
            pass
        finally:
            stepping.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await stepping
            self._connections.discard(connection)
            self._note(lambda: None)

    async def _receive(self, connection: _Connection, messages: list[ToWorker]) -> None:
        events = [event for message in messages for event in connection.engine.take(message)]
        connection.work.set()
        self._note(lambda: self.received.extend(message for message in messages if not isinstance(message, Ping)))
        if events and not self.mute:
            await connection.socket.send(encode_from_worker(events))

    async def _step_forever(self, connection: _Connection) -> None:
        """One frame a step, with one token of every running sequence, as an engine does."""
        next_step_s = time.monotonic()
        while await connection.work.wait():
            events = connection.engine.step()
            if not events:
                connection.work.clear()
                continue
            self.num_sent += sum(isinstance(event, Delta) for event in events)
            if not self.mute:
                await connection.socket.send(encode_from_worker(events))
            self._note(lambda: None)
            next_step_s = max(next_step_s + self.step_s, time.monotonic() - self.step_s)
            await asyncio.sleep(max(0.0, next_step_s - time.monotonic()))

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()


def main() -> None:
    """Run as a process: prints its URL, then serves until it is killed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", default="scripted-token")
    parser.add_argument("--step-s", type=float, default=0.02, help="seconds between two steps")
    parser.add_argument("--num-tokens", type=int, default=64, help="length of an answer; max_tokens overrides it")
    options = parser.parse_args()

    def answer(message: Generate) -> Answer:
        num_tokens = message.sampling.max_tokens or options.num_tokens
        return Answer(deltas=tuple(Delta("", text=f" t{i:03d}") for i in range(num_tokens)), reason="length")

    with ScriptedWorker(token=options.token, step_s=options.step_s, port=options.port) as worker:
        worker.answer = answer
        print(worker.url, flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
