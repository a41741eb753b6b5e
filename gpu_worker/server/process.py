"""The life of a worker process: listen, load, serve, drain, stop. It decides nothing about requests."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from concurrent.futures import Future
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gpu_worker.engine.base import Engine
from gpu_worker.engine.core import EngineLoop
from gpu_worker.load_error import UnapprovedCodeError
from gpu_worker.protocol import (
    MAX_FRAME_BYTES,
    Abort,
    AudioChunk,
    FromWorker,
    Loading,
    Ping,
    ProtocolError,
    Ready,
    Transcribe,
    WorkerConfig,
    decode_to_worker,
    write_code_line,
)
from gpu_worker.server.adapters import AdapterTable
from gpu_worker.server.connection import Connection
from gpu_worker.server.http import Gate
from gpu_worker.server.loading import Acceleration, ServedModel, explain_failure, load_served_model
from gpu_worker.server.requests import RequestTable, Serving
from gpu_worker.server.status import WorkerStatus

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_LOAD_FAILED = 3
EXIT_ENGINE_FAILED = 4

# After a failure the process stays this long, so that whoever watches /health can read why.
LINGER_S = 5.0
# How long the engine thread may take to finish its step once everything else is done.
_ENGINE_STOP_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 2.0


class WorkerProcess:
    """One worker. `run` is its whole life."""

    def __init__(self, config: WorkerConfig) -> None:
        """Must be called in a running event loop."""
        self._config = config
        self._status = WorkerStatus()
        self._connections: set[Connection] = set()
        self._table = RequestTable(self._status, config.max_num_seqs + config.max_waiting)
        self._engine_loop = EngineLoop(self._load, self._table.deliver)
        self._served: Future[ServedModel] = Future()
        self._loop = asyncio.get_running_loop()
        self._must_stop = asyncio.Event()
        self._acceleration: Acceleration | None = None

    async def run(self) -> int:
        """Serve until stopped or failed; returns the exit code. Raises OSError when it cannot listen."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)
        async with await self._listen() as server:
            logger.info("listening on %s", ", ".join(_describe(sock) for sock in server.sockets))
            self._engine_loop.start()
            code = await self._serve()
            server.close(close_connections=False)
            await self._close_connections()
        self._table.shut_down()
        if self._engine_loop.loaded.done():
            await asyncio.to_thread(self._engine_loop.stop, _ENGINE_STOP_TIMEOUT_S)
        if not self._engine_loop.ended.done():
            # The thread is still loading, or hangs in a step: it cannot be ended, and the interpreter
            # must not be taken down around native code that runs.
            logging.shutdown()
            os._exit(code)
        return code

    async def _listen(self) -> Server:
        config = self._config
        tls = None
        if config.tls_cert is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(config.tls_cert, config.tls_key)
        if config.fd is not None:
            listener = socket.socket(fileno=config.fd)
        else:
            # From its descriptor: it then knows that it is TCP, without which asyncio leaves TCP_NODELAY off.
            listener = socket.socket(fileno=socket.create_server((config.host, config.port)).detach())
        return await serve(
            self._handle,
            sock=listener,
            ssl=tls,
            process_request=Gate(config.token, self._status),
            compression=None,
            max_size=MAX_FRAME_BYTES,
            close_timeout=_CLOSE_TIMEOUT_S,
        )

    async def _serve(self) -> int:
        """Wait for the end of this worker's life, whatever brings it."""
        loaded: asyncio.Future[Any] = asyncio.wrap_future(self._engine_loop.loaded)
        ended: asyncio.Future[Any] = asyncio.wrap_future(self._engine_loop.ended)
        stopped: asyncio.Future[Any] = asyncio.create_task(self._must_stop.wait())
        try:
            await asyncio.wait([loaded, stopped], return_when=asyncio.FIRST_COMPLETED)
            if loaded.done() and (error := loaded.exception()) is not None:
                if isinstance(error, UnapprovedCodeError):
                    self._status.unapproved_code = error.code
                    sys.stderr.write(write_code_line(error.code))
                return await self._fail(f"The model could not be loaded: {explain_failure(error)}", EXIT_LOAD_FAILED)
            if loaded.done():
                self._on_loaded(self._served.result())
                await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and (error := ended.result()) is not None:
                return await self._fail(f"The engine has failed: {explain_failure(error)}", EXIT_ENGINE_FAILED)
            await self._drain()
            return EXIT_OK
        finally:
            stopped.cancel()
            if self._acceleration is not None:
                self._acceleration.cancel()

    def _load(self) -> Engine:
        """In the engine thread."""
        try:
            served = load_served_model(self._config, self._report_progress)
        except Exception:
            logger.exception("loading %s failed", self._config.model)
            raise
        self._served.set_result(served)
        return served.engine

    def _report_progress(self, progress: float, stage: str) -> None:
        """In the engine thread."""
        self._loop.call_soon_threadsafe(self._on_progress, progress, stage)

    def _on_progress(self, progress: float, stage: str) -> None:
        status = self._status
        if stage == status.stage and progress - status.progress < 0.01:
            return
        status.progress, status.stage = progress, stage
        self._broadcast(Loading(progress, stage))

    def _on_loaded(self, served: ServedModel) -> None:
        self._status.info = served.info
        self._status.stats = served.engine.stats()
        self._status.status, self._status.progress, self._status.stage = "ready", 1.0, ""
        adapters = None
        if served.adapters is not None:
            adapters = AdapterTable(served.adapters, self._config.max_loras, self._status)
        self._table.open(Serving(self._engine_loop, served.engine, served.frontend, served.info.task, adapters))
        self._broadcast(Ready(served.info))
        logger.info("ready: %s on the %s engine", served.info.architecture, served.info.engine)
        if served.acceleration is not None:
            self._acceleration = served.acceleration
            threading.Thread(target=self._accelerate, args=[served.acceleration], name="compile", daemon=True).start()

    def _accelerate(self, acceleration: Acceleration) -> None:
        """In a thread of its own, which waits for the compiler while the engine serves."""
        acceleration.prepare()
        self._engine_loop.call(acceleration.take_up)

    def _broadcast(self, event: FromWorker) -> None:
        for connection in self._connections:
            connection.post([event])

    async def _handle(self, socket_: ServerConnection) -> None:
        """Serve one web process. Returns when its connection has ended."""
        connection = Connection(socket_)
        writer = asyncio.create_task(connection.run_writer())
        self._connections.add(connection)
        logger.info("connection %d from %s", connection.number, socket_.remote_address)
        info = self._status.info
        connection.post([Loading(self._status.progress, self._status.stage) if info is None else Ready(info)])
        try:
            async for frame in socket_:
                self._dispatch(connection, frame)
        except ProtocolError as error:
            logger.warning("connection %d broke the protocol: %s", connection.number, error)
            await socket_.close(1002, _shorten(str(error)))
        except ConnectionClosed:
            logger.info("connection %d was lost", connection.number)
        finally:
            self._connections.discard(connection)
            self._table.drop(connection)
            writer.cancel()

    def _dispatch(self, connection: Connection, frame: str | bytes) -> None:
        if isinstance(frame, str):
            raise ProtocolError("frames must be binary")
        for message in decode_to_worker(frame):
            match message:
                case AudioChunk():
                    connection.take_chunk(message)
                case Transcribe():
                    self._table.start(connection, connection.complete(message))
                case Abort(id=request_id):
                    connection.forget_upload(request_id)
                    self._table.abort(connection, request_id)
                case Ping(nonce=nonce):
                    connection.post([self._status.to_pong(nonce)])
                case _:
                    self._table.start(connection, message)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._must_stop.is_set():
            logger.warning("second signal: exit at once")
            os._exit(128 + number)
        logger.info("%s: draining", number.name)
        self._must_stop.set()

    async def _drain(self) -> None:
        """Refuse what is new, let run what runs, and hand back the rest when the time is up."""
        self._status.status = "draining"
        try:
            async with asyncio.timeout(self._config.drain_grace_s):
                await self._table.wait_idle()
        except TimeoutError:
            self._table.fail_all("not_ready", "The worker is stopping.")

    async def _fail(self, message: str, code: int) -> int:
        self._status.status, self._status.error = "failed", message
        self._table.fail_all("internal", "The engine has failed.")
        for connection in list(self._connections):
            await connection.close(1011, _shorten(message))
        try:
            async with asyncio.timeout(LINGER_S):
                await self._must_stop.wait()
        except TimeoutError:
            pass
        sys.stderr.write(message + "\n")
        return code

    async def _close_connections(self) -> None:
        await asyncio.gather(*(connection.close(1001, "stopping") for connection in list(self._connections)))


def run_worker(config: WorkerConfig) -> int:
    """Run a worker in this process, blocking; returns the exit code. Raises OSError when it cannot listen."""

    async def run() -> int:
        return await WorkerProcess(config).run()

    return asyncio.run(run())


def _describe(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


def _shorten(reason: str) -> str:
    """A close frame holds 123 bytes of reason."""
    return reason.encode()[:120].decode(errors="ignore")
