"""What the worker says and does when its engine misbehaves: a scripted engine in the real process object."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from transformers import AutoTokenizer

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.protocol import Failed, Finished, ModelInfo, Progress, WorkerConfig
from gpu_worker.server import process as process_module
from gpu_worker.server.loading import OnProgress, ServedModel
from gpu_worker.server.process import EXIT_ENGINE_FAILED, WorkerProcess
from tests.worker.link import Link, chat, open_link
from tests.worker_process import DEMO_MODEL, DEMO_VOCAB_SIZE

LIMITS = Limits(max_model_len=512, vocab_size=DEMO_VOCAB_SIZE, eos_token_ids=frozenset([2]))
INFO = ModelInfo(
    architecture="Scripted",
    engine="fallback",
    dtype="float32",
    device="cpu",
    max_model_len=512,
    vocab_size=DEMO_VOCAB_SIZE,
)


class ScriptedEngine:
    """Says `token_ids` to everybody, one a step, after calling `on_step`."""

    max_model_len = 512

    def __init__(self, token_ids: list[int], on_step: Callable[[], None] = lambda: None) -> None:
        self.requests: dict[str, Request] = {}
        self.waits = False  # nothing is computed: requests stay in the queue
        self.reset_error: Exception | None = None
        self._token_ids = token_ids
        self._on_step = on_step
        self._num_steps = 0

    def add(self, request: Request) -> None:
        self.requests[request.id] = request

    def abort(self, request_id: str) -> TokenOutput | None:
        request = self.requests.pop(request_id, None)
        return None if request is None else TokenOutput(request, finish_reason="abort")

    def has_work(self) -> bool:
        return bool(self.requests) and not self.waits

    def step(self) -> list[TokenOutput]:
        self._on_step()
        self._num_steps += 1
        outputs = []
        for request in list(self.requests.values()):
            request.output_token_ids.append(self._token_ids[len(request.output_token_ids)])
            reason = request.find_finish_reason(self.max_model_len)
            outputs.append(TokenOutput(request, request.output_token_ids[-1], finish_reason=reason))
            if reason is not None:
                del self.requests[request.id]
        return outputs

    def queue_position(self, request_id: str) -> int | None:
        return list(self.requests).index(request_id) if self.waits and request_id in self.requests else None

    def stats(self) -> EngineStats:
        num_waiting = len(self.requests) if self.waits else 0
        return EngineStats(len(self.requests) - num_waiting, num_waiting, 0, 0, self._num_steps)

    def reset(self, error: str) -> list[TokenOutput]:
        if self.reset_error is not None:
            raise self.reset_error
        requests, self.requests = self.requests, {}
        return [TokenOutput(request, error=error) for request in requests.values()]


class Running:
    """A worker in this process, as `open_link` wants to see it."""

    def __init__(self, port: int, worker: WorkerProcess) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self.headers = {"Authorization": "Bearer secret"}
        self.task = asyncio.create_task(worker.run())


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), LIMITS)


@asynccontextmanager
async def run_scripted(
    monkeypatch: pytest.MonkeyPatch, frontend: Frontend, engine: ScriptedEngine
) -> AsyncIterator[tuple[Running, Link]]:
    def load(_config: WorkerConfig, on_progress: OnProgress) -> ServedModel:
        on_progress(0.5, "reading")
        return ServedModel(engine, frontend, INFO)

    monkeypatch.setattr(process_module, "load_served_model", load)
    monkeypatch.setattr(process_module, "LINGER_S", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = WorkerConfig(model="scripted", fd=listener.detach(), token="secret", max_num_seqs=4, max_waiting=2)
    running = Running(port, WorkerProcess(config))
    try:
        async with open_link(running) as link:
            yield running, link
    finally:
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)


def fail_at(step: int) -> Callable[[], None]:
    steps = iter(range(10_000))

    def on_step() -> None:
        if next(steps) == step:
            raise RuntimeError("secret detail")

    return on_step


async def test_failed_step_fails_its_requests_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch, frontend: Frontend, caplog: pytest.LogCaptureFixture
) -> None:
    engine = ScriptedEngine([20, 21, 22, 2], fail_at(2))
    with caplog.at_level(logging.CRITICAL):
        async with run_scripted(monkeypatch, frontend, engine) as (_, link):
            answer = await link.ask(chat("r1", "Hello!"))
            assert isinstance(answer.end, Failed)
            assert answer.end.code == "internal"
            assert "secret" not in answer.end.message
            assert answer.end.usage.completion_tokens == len(answer.token_ids()) == 2
            again = await link.ask(chat("r2", "Hello!"))
            assert isinstance(again.end, Finished)
            assert again.token_ids() == [20, 21, 22, 2]


async def test_engine_that_cannot_be_mended_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, frontend: Frontend, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ScriptedEngine([20, 21, 22, 2], fail_at(1))
    engine.reset_error = ValueError("the device is gone")
    async with run_scripted(monkeypatch, frontend, engine) as (running, link):
        answer = await link.ask(chat("r1", "Hello!"))
        assert isinstance(answer.end, Failed)
        assert answer.end.code == "internal"
        assert await running.task == EXIT_ENGINE_FAILED
        assert link.socket.close_code == 1011
    assert capsys.readouterr().err.splitlines()[-1] == "The engine has failed: the device is gone"


async def test_prepare_that_breaks_is_internal_and_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, frontend: Frontend
) -> None:
    async with run_scripted(monkeypatch, frontend, ScriptedEngine([2])) as (_, link):
        with monkeypatch.context() as broken:
            broken.setattr(frontend.tokenizer, "encode", lambda *_args, **_kwargs: 1 / 0)
            answer = await link.ask(chat("r1", "Hello!"))
        assert isinstance(answer.end, Failed)
        assert answer.end.code == "internal"
        assert "division" not in answer.end.message
        assert isinstance((await link.ask(chat("r2", "Hello!"))).end, Finished)


async def test_waiting_request_is_told_its_position(monkeypatch: pytest.MonkeyPatch, frontend: Frontend) -> None:
    monkeypatch.setattr("gpu_worker.server.requests._PROGRESS_INTERVAL_S", 0.0)
    engine = ScriptedEngine([2])
    engine.waits = True
    async with run_scripted(monkeypatch, frontend, engine) as (_, link):
        for i in range(3):
            await link.send(chat(f"w{i}", "Hello!"))
            assert await link.wait_for(f"w{i}", Progress) == Progress(f"w{i}", i)
        await link.abort("w0")
        assert await link.wait_for("w2", Progress) == Progress("w2", 1)
        engine.waits = False
        await link.abort("w1")  # wakes the loop
        assert isinstance((await link.collect("w2")).end, Finished)


async def test_requests_beyond_the_queue_are_overloaded(monkeypatch: pytest.MonkeyPatch, frontend: Frontend) -> None:
    engine = ScriptedEngine([2])
    engine.waits = True
    async with run_scripted(monkeypatch, frontend, engine) as (_, link):
        for i in range(6):
            await link.send(chat(f"w{i}", "Hello!"))
        (failed,) = (await link.ask(chat("w6", "Hello!"))).events
        assert failed.code == "overloaded"
        await link.abort("w3")
        await link.wait_for("w3", Finished)
        await link.send(chat("w7", "Hello!"))
        await link.ping()
        engine.waits = False
        await link.abort("w0")
        assert isinstance((await link.collect("w7")).end, Finished)


async def test_abort_before_the_engine_knows_the_request(monkeypatch: pytest.MonkeyPatch, frontend: Frontend) -> None:
    async with run_scripted(monkeypatch, frontend, ScriptedEngine([2])) as (_, link):
        await link.send(chat("gone", "word " * 20_000, n=2))
        await link.abort("gone")
        answer = await link.collect("gone")
        assert [(e.reason, e.index, e.last) for e in answer.events] == [("abort", 0, False), ("abort", 1, True)]
        assert isinstance((await link.ask(chat("next", "Hello!"))).end, Finished)


async def test_health_says_since_when_the_worker_is_idle(monkeypatch: pytest.MonkeyPatch, frontend: Frontend) -> None:
    engine = ScriptedEngine([2])
    engine.waits = True
    async with run_scripted(monkeypatch, frontend, engine) as (running, link):
        assert (await get_health(running))["idle_s"] >= 0
        await link.send(chat("w", "Hello!"))
        await link.ping()
        assert (await get_health(running))["idle_s"] is None


async def get_health(running: Running) -> dict[str, Any]:
    url = running.url.replace("ws:", "http:") + "/health"
    async with aiohttp.ClientSession(headers=running.headers) as session, session.get(url) as response:
        return await response.json()
