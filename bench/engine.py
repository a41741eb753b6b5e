"""Tokens per second of our worker against `transformers serve`: same model, same prompts, same run.

Each server runs alone, in a process of its own, and is asked over its own wire (WebSocket frames; HTTP and SSE).
The peer needs `pip install "transformers[serving]"`, in this environment or in that of `--peer-python`.

    python -m bench.engine                        # the demo model
    python -m bench.engine --random 28m           # a random Qwen2 of 28 million parameters
    python -m bench.engine --random 0.5b          # the shapes of Qwen2.5-0.5B
    python -m bench.engine --model FOLDER --concurrency 1 8
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from websockets.asyncio.client import connect

from gpu_worker.protocol import Delta, Failed, Finished, Generate, Sampling, decode_from_worker, encode_to_worker
from tests.worker_process import DEMO_MODEL, ROOT, run_worker

PROMPT_TOKENS = 75
NEW_TOKENS = 64
START_TIMEOUT_S = 120
COMPILE_TIMEOUT_S = 900
# The peer's continuous batching, tuned for a small machine: its defaults take 10 GiB.
TUNED_BATCHING = ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "256"]
TUNED_BATCHING += ["--cb-max-batch-tokens", "512"]
RANDOM_MODELS = {
    "28m": {
        "vocab_size": 32_000,
        "hidden_size": 384,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "0.5b": {  # the shapes of Qwen2.5-0.5B
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}

# Asks for one answer and returns the number of its tokens.
Ask = Callable[[str], Awaitable[int]]


class Result(NamedTuple):
    """One cell of the table."""

    tokens_per_s: float
    cpu_per_wall: float  # busy cores of the server
    num_tokens: int


@dataclass(frozen=True)
class Server:
    """A way to start a server and ask it, and its name in the table."""

    name: str
    open: Callable[[Path], "AsyncIterator[tuple[Ask, int]]"]


def open_ours(compile_mode: str) -> Callable[[Path], "AsyncIterator[tuple[Ask, int]]"]:
    """Our worker with or without compiled steps; what was compiled in an earlier run is used again."""

    def open_worker(model: Path) -> AsyncIterator[tuple[Ask, int]]:
        return open_our_worker(model, compile_mode)

    return open_worker


@asynccontextmanager
async def open_our_worker(model: Path, compile_mode: str) -> AsyncIterator[tuple[Ask, int]]:
    """One WebSocket carries all requests, as from a web process."""
    options = {"num_threads": None, "kv_cache_bytes": None, "omp_wait_policy": wait_policy(), "compile": compile_mode}
    with run_worker(model, wait_until_ready=False, **options) as worker:
        with suppress(TimeoutError):  # of one look at /health, on a machine that is busy compiling
            worker.wait_for("ready", COMPILE_TIMEOUT_S)
        worker.wait_for("ready", COMPILE_TIMEOUT_S)
        waiting: dict[str, asyncio.Future[int]] = {}
        num_tokens: dict[str, int] = {}
        async with connect(worker.url, additional_headers=worker.headers, max_size=None) as link:

            async def read_frames() -> None:
                async for frame in link:
                    for event in decode_from_worker(frame):
                        if isinstance(event, Delta):
                            num_tokens[event.id] += len(event.token_ids)
                        elif isinstance(event, Finished):
                            waiting.pop(event.id).set_result(num_tokens.pop(event.id))
                        elif isinstance(event, Failed):
                            waiting.pop(event.id).set_exception(RuntimeError(event.message))

            async def ask(prompt: str) -> int:
                request_id = f"{len(num_tokens)}-{random.random()}"
                waiting[request_id], num_tokens[request_id] = asyncio.get_running_loop().create_future(), 0
                answer = waiting[request_id]
                sampling = Sampling(seed=0, temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
                message = Generate(id=request_id, kind="completion", prompt=prompt, sampling=sampling)
                await link.send(encode_to_worker(message))
                return await answer

            reader = asyncio.create_task(read_frames())
            try:
                yield ask, worker.process.pid
            finally:
                reader.cancel()


def open_peer(python: str, *flags: str) -> Callable[[Path], "AsyncIterator[tuple[Ask, int]]"]:
    """`transformers serve` with the given flags, asked over HTTP with streaming."""

    @asynccontextmanager
    async def open_server(model: Path) -> AsyncIterator[tuple[Ask, int]]:
        with start_peer(python, model, *flags) as (process, url):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http:
                await wait_until_healthy(http, url, process)

                async def ask(prompt: str) -> int:
                    body = {"model": str(model), "prompt": prompt, "stream": True, "max_tokens": NEW_TOKENS}
                    body |= {"temperature": 0, "stream_options": {"include_usage": True}}
                    body["generation_config"] = json.dumps(
                        {"do_sample": False, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
                    )
                    async with http.post(f"{url}/v1/completions", json=body) as response:
                        if response.status != 200:
                            raise RuntimeError(await response.text())
                        return await count_stream_tokens(response)

                yield ask, process.pid

    return open_server


async def count_stream_tokens(response: aiohttp.ClientResponse) -> int:
    """Completion tokens of an SSE answer, as its usage says."""
    num_tokens = 0
    async for line in response.content:
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
    return num_tokens


@contextmanager
def start_peer(python: str, model: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    command = [python, "-c", code, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), *flags]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_WAIT_POLICY": wait_policy()}
        )
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


async def wait_until_healthy(http: aiohttp.ClientSession, url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode} while it started")
        try:
            async with http.get(f"{url}/health") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)
    raise RuntimeError(f"it did not answer within {START_TIMEOUT_S} s")


def wait_policy() -> str:
    """How idle OpenMP threads wait, equal for all servers."""
    return os.environ.get("OMP_WAIT_POLICY", "passive").lower()


async def measure(ask: Ask, pid: int, prompts: list[str], concurrency: int) -> Result:
    """Keep `concurrency` requests in flight until all prompts are answered."""
    pending = iter(prompts)
    num_tokens = 0

    async def work() -> None:
        nonlocal num_tokens
        for prompt in pending:
            answered = await ask(prompt)
            num_tokens += answered

    started_s, cpu_s = time.perf_counter(), count_cpu_seconds(pid)
    await asyncio.gather(*(work() for _ in range(concurrency)))
    wall_s = time.perf_counter() - started_s
    return Result(num_tokens / wall_s, (count_cpu_seconds(pid) - cpu_s) / wall_s, num_tokens)


def count_cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


def make_prompts(tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> list[str]:
    """Texts of about PROMPT_TOKENS random tokens, all different from the first token on."""
    rng = random.Random(seed)
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    return [tokenizer.decode(rng.choices(ordinary, k=PROMPT_TOKENS)) for _ in range(count)]


async def measure_server(server: Server, model: Path, levels: list[int]) -> dict[int, Result] | str:
    """Results by concurrency, or why there are none."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    results: dict[int, Result] = {}
    try:
        async with server.open(model) as (ask, pid):
            await measure(ask, pid, make_prompts(tokenizer, 2, seed=0), 1)  # warm
            for level in levels:
                prompts = make_prompts(tokenizer, max(4, 2 * level), seed=level)
                results[level] = await measure(ask, pid, prompts, level)
                print(f"  {server.name}, {level}: {results[level]}", file=sys.stderr)
    except (RuntimeError, aiohttp.ClientError, AssertionError) as error:
        return str(error).splitlines()[0]
    return results


def build_random_model(name: str, folder: Path) -> Path:
    """A Qwen2 of random weights with the demo model's tokenizer, bf16."""
    config = AutoConfig.for_model("qwen2", max_position_embeddings=4096, **RANDOM_MODELS[name])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL).save_pretrained(folder)
    return folder


def format_table(results: dict[str, dict[int, Result] | str], levels: list[int]) -> str:
    """Markdown: tokens per second, (busy cores), and how many times the plain peer's figure that is."""
    lines = [f"| tok/s (cores) | {' | '.join(f'C={level}' for level in levels)} |", "|---" * (len(levels) + 1) + "|"]
    peer = results.get("transformers serve", {})
    for name, cells in results.items():
        if isinstance(cells, str):
            lines.append(f"| {name} | did not run: {cells} |" + " |" * (len(levels) - 1))
            continue
        texts = []
        for level in levels:
            text = f"{cells[level].tokens_per_s:.0f} ({cells[level].cpu_per_wall:.1f})"
            if isinstance(peer, dict) and level in peer and cells is not peer:
                text += f" x{cells[level].tokens_per_s / peer[level].tokens_per_s:.2f}"
            texts.append(text)
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--random", choices=sorted(RANDOM_MODELS), help="build a random model and use that")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has transformers[serving]")
    options = parser.parse_args()
    servers = [
        Server("Atrium worker, compiled", open_ours("on")),
        Server("Atrium worker, --compile off", open_ours("off")),
        Server("transformers serve", open_peer(options.peer_python)),
        Server("transformers serve, continuous batching", open_peer(options.peer_python, *TUNED_BATCHING)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = build_random_model(options.random, Path(folder)) if options.random else options.model.resolve()
        results = {server.name: asyncio.run(measure_server(server, model, options.concurrency)) for server in servers}
    name = f"random Qwen2 {options.random}" if options.random else options.model.name
    load = psutil.getloadavg()[0]
    print(
        f"\n{name}, prompt ~{PROMPT_TOKENS} tokens, {NEW_TOKENS} new, greedy, streaming. {psutil.cpu_count()} cores, "
        f"OMP_WAIT_POLICY={wait_policy()}, load average {load:.1f} (the benchmark's own included).\n"
    )
    print(format_table(results, options.concurrency))


if __name__ == "__main__":
    main()
