"""The servers that `bench.engine` compares: how each is started in a process of its own, and asked over its own wire.

Ours is asked by WebSocket frames, the peers over HTTP and SSE. Knows no measurement.
"""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.worker_link import open_link
from tests.worker_process import ROOT, run_worker

START_TIMEOUT_S = 240
# As the embedded server starts it, not as the tests do.
WORKER_OPTIONS = {"num_threads": None, "kv_cache_bytes": None}
COMPILE_TIMEOUT_S = 900
# Continuous batching of `transformers serve`, tuned for a small machine: its defaults take 10 GiB.
TUNED_BATCHING = ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "256"]
TUNED_BATCHING += ["--cb-max-batch-tokens", "512"]
VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "0-1", "VLLM_LOGGING_LEVEL": "ERROR"}

# What makes a peer answer with exactly so many tokens, in its own words: fields of the request.
Extras = dict[str, Any]


@dataclass(frozen=True)
class Asking:
    """A server that runs."""

    ask: Callable[[str, int], Awaitable[int]]  # prompt and number of new tokens to the number of tokens that came
    pid: int
    ready_s: float  # from the start of the process until it answered


@dataclass(frozen=True)
class Server:
    """A way to start a server, and its name in the table."""

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[Asking]]


def make_ours(compile_mode: str, wait_policy: str = "brief") -> Server:
    """Our worker with or without compiled steps; what was compiled in an earlier run is used again."""
    options = {**WORKER_OPTIONS, "compile": compile_mode, "omp_wait_policy": wait_policy}

    @asynccontextmanager
    async def open_worker(model: Path) -> AsyncIterator[Asking]:
        started_s = time.perf_counter()
        with run_worker(model, wait_until_ready=False, **options) as worker:
            worker.wait_for("ready", COMPILE_TIMEOUT_S)
            ready_s = time.perf_counter() - started_s
            async with open_link(worker) as link:

                async def ask(prompt: str, num_tokens: int) -> int:
                    return len((await link.ask(prompt, num_tokens)).token_times_s)

                yield Asking(ask, worker.process.pid, ready_s)

    name = f"Atrium worker, --compile {compile_mode}"
    return Server(name + (", threads that spin" if wait_policy == "active" else ""), open_worker)


def make_transformers(python: str, *flags: str) -> Server:
    """`transformers serve`; the interpreter needs `pip install "transformers[serving]"`."""
    code = "from transformers.cli.transformers import main; main()"

    def make_command(model: Path, port: int) -> list[str]:
        return [python, "-c", code, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), *flags]

    def force(num_tokens: int) -> Extras:
        config = {"do_sample": False, "max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
        return {"generation_config": json.dumps(config)}

    name = "transformers serve" + (", continuous batching, tuned" if flags else "")
    return Server(name, _open_http(make_command, force, {}))


def make_vllm(python: str) -> Server:
    """vLLM's CPU build, on two threads; the interpreter is that of its own environment."""

    def make_command(model: Path, port: int) -> list[str]:
        command = [str(Path(python).with_name("vllm")), "serve", str(model), "--served-model-name", str(model)]
        return [*command, "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--max-model-len", "4096"]

    return Server("vLLM on CPU", _open_http(make_command, lambda _: {"ignore_eos": True}, VLLM_ENVIRONMENT))


def _open_http(
    make_command: Callable[[Path, int], list[str]], force: Callable[[int], Extras], environment: dict[str, str]
) -> Callable[[Path], AbstractAsyncContextManager[Asking]]:
    @asynccontextmanager
    async def open_server(model: Path) -> AsyncIterator[Asking]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        started_s = time.perf_counter()
        with start(make_command(model, port), environment) as process:
            async with aiohttp.ClientSession(
                f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(total=None)
            ) as http:
                await wait_until_healthy(http, process)
                ready_s = time.perf_counter() - started_s

                async def ask(prompt: str, num_tokens: int) -> int:
                    body = {"model": str(model), "prompt": prompt, "max_tokens": num_tokens, "temperature": 0}
                    return await _ask(http, body | force(num_tokens))

                yield Asking(ask, process.pid, ready_s)

    return open_server


@contextmanager
def start(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, 9)  # with its engine's processes
            process.wait()


async def wait_until_healthy(http: aiohttp.ClientSession, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode} while it started")
        try:
            async with http.get("/health") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)
    raise RuntimeError(f"it did not answer within {START_TIMEOUT_S} s")


async def _ask(http: aiohttp.ClientSession, body: dict[str, Any]) -> int:
    """Stream a completion; the number of its tokens."""
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    async with http.post("/v1/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(await response.text())
        num_answered = 0
        async for line in response.content:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"])
                num_answered = (chunk.get("usage") or {}).get("completion_tokens", num_answered)
        return num_answered
