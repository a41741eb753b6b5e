"""What the portal costs in front of vLLM: the same requests sent to vLLM's own endpoint and to the portal, in turns.

vLLM, web process and this client are processes of their own on one machine. Prints a markdown table.

    python -m bench.upstream --vllm VLLM_ENVIRONMENT/bin/vllm [--random 28m] [--concurrency 1 8 32] [--rounds 5]
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
from transformers import AutoTokenizer

from bench.engine import NEW_TOKENS, RANDOM_MODELS, Prompts, build_random_model
from bench.peers import VLLM_ENVIRONMENT, start, wait_until_healthy
from tests.web_process import MODEL, SECRET, find_free_port, run_python, run_web_process
from tests.worker_process import DEMO_MODEL

TOKEN = "bench-token"
# The replica that `run_web_process` has made belongs to another engine than our own.
_MAKE_IT_VLLM = """
import django
django.setup()
from apps.registry.models import HostedModel
HostedModel.objects.update(engine="vllm")
"""


class Result(NamedTuple):
    """Of one round."""

    ttft_ms: float  # the median
    tokens_per_s: float


async def ask(http: aiohttp.ClientSession, url: str, key: str, prompt: str) -> tuple[float, int]:
    """Seconds to the first text, and the number of tokens."""
    body: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    began_s, first_s, num_tokens = time.perf_counter(), 0.0, 0
    async with http.post(f"{url}/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        if response.status != 200:
            raise RuntimeError(await response.text())
        async for line in response.content:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if not first_s and any(choice["text"] for choice in chunk["choices"]):
                    first_s = time.perf_counter() - began_s
                num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
    return first_s, num_tokens


async def measure(url: str, key: str, prompts: list[str], concurrency: int) -> Result:
    """Keep `concurrency` requests in flight until all prompts are answered."""
    pending, firsts_s, num_tokens = iter(prompts), list[float](), 0

    async def work() -> None:
        nonlocal num_tokens
        for prompt in pending:
            first_s, answered = await ask(http, url, key, prompt)
            firsts_s.append(first_s)
            num_tokens += answered

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
        began_s = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        wall_s = time.perf_counter() - began_s
    if num_tokens != NEW_TOKENS * len(prompts):
        raise RuntimeError(f"{num_tokens} tokens of {NEW_TOKENS * len(prompts)} came")
    return Result(1000 * statistics.median(firsts_s), num_tokens / wall_s)


async def measure_levels(urls: dict[str, tuple[str, str]], prompts: Prompts, levels: list[int], rounds: int) -> None:
    """One row for each level. Each round asks both, with other prompts: no prefix is known from the other's turn."""
    print("| | TTFT vLLM, ms | through Atrium | difference | tok/s vLLM | through Atrium | ratio |")
    print("|---|---|---|---|---|---|---|")
    for url, key in urls.values():
        await measure(url, key, prompts.make(4, seed=1), 4)
    for level in levels:
        results: dict[str, list[Result]] = {name: [] for name in urls}
        for number in range(rounds):
            for position, name in enumerate(sorted(urls, reverse=bool(number % 2))):
                texts = prompts.make(max(8, 2 * level), seed=1000 * level + 10 * number + position)
                results[name].append(await measure(*urls[name], texts, level))
        direct, ours = (
            Result(*(statistics.median(values) for values in zip(*results[name], strict=True)))
            for name in ("vllm", "atrium")
        )
        print(
            f"| C={level} | {direct.ttft_ms:.1f} | {ours.ttft_ms:.1f} | {ours.ttft_ms - direct.ttft_ms:+.1f} | "
            f"{direct.tokens_per_s:.0f} | {ours.tokens_per_s:.0f} | {ours.tokens_per_s / direct.tokens_per_s:.3f} |",
            flush=True,
        )


async def wait_for_vllm(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        await wait_until_healthy(http, process)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="the program")
    parser.add_argument("--random", choices=sorted(RANDOM_MODELS), default="28m")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Every token is a text, so that the first one can be seen.
        model = build_random_model(
            options.random, folder / "model", vocab_size=len(AutoTokenizer.from_pretrained(DEMO_MODEL))
        )
        port = find_free_port()
        command = [options.vllm, "serve", str(model), "--served-model-name", MODEL, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--dtype", "bfloat16", "--max-model-len", "4096"]
        with (
            start(command, VLLM_ENVIRONMENT | {"VLLM_API_KEY": TOKEN}) as process,
            run_web_process(folder / "data", worker_ports=[port], worker_token=TOKEN) as web,
        ):
            run_python(web.environment, "-c", _MAKE_IT_VLLM)
            asyncio.run(wait_for_vllm(port, process))
            prompts = Prompts(AutoTokenizer.from_pretrained(model), 75)
            urls = {"vllm": (f"http://127.0.0.1:{port}", TOKEN), "atrium": (web.url, SECRET)}
            print(f"load average {os.getloadavg()[0]:.1f}, {psutil.cpu_count()} cores")
            asyncio.run(measure_levels(urls, prompts, options.concurrency, options.rounds))


if __name__ == "__main__":
    main()
