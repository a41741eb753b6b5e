"""What the gateway costs: our web process against a bare ASGI app that streams the same number of bytes.

Worker, web process, bare app and load generator are processes of their own, all in one run, so that the ratios hold
whatever else the machine does. Prints a markdown table.

    python -m bench.gateway [--streams 64 256 1000] [--tokens 250] [--requests 4000] [--database-url ...]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.web_process import ROOT, SECRET, find_free_port, run_web_process, start_uvicorn, stop_process

TOKEN = "bench-token"
STEP_S = 0.02


@dataclass(frozen=True)
class Server:
    """Something to put under load."""

    name: str
    url: str
    pid: int

    @property
    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system


@contextmanager
def run_worker(step_s: float) -> Iterator[int]:
    """The scripted worker as a process; yields its port."""
    command = [sys.executable, "-m", "tests.scripted_worker", "--token", TOKEN, "--step-s", str(step_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield urlsplit(process.stdout.readline().strip()).port or 0
        finally:
            process.terminate()


@contextmanager
def run_bare() -> Iterator[Server]:
    """The bare application under the same server with the same options."""
    port = find_free_port()
    environment = {**os.environ, "ATRIUM_BENCH_STEP_S": str(STEP_S)}
    process = start_uvicorn("bench.bare_asgi:application", port, environment)
    try:
        yield Server("bare", f"http://127.0.0.1:{port}/v1/chat/completions", process.pid)
    finally:
        stop_process(process)


@contextmanager
def run_ours(step_s: float, database_url: str) -> Iterator[Server]:
    """Worker and web process on a fresh database."""
    with ExitStack() as stack:
        port = stack.enter_context(run_worker(step_s))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        web = stack.enter_context(
            run_web_process(folder, worker_ports=[port], worker_token=TOKEN, database_url=database_url)
        )
        yield Server("atrium", f"{web.url}/v1/chat/completions", web.process.pid)


def run_load(server: Server, *arguments: str) -> dict[str, float]:
    """One run of the load generator; its JSON, with the server's CPU seconds during it."""
    cpu_s = server.cpu_s
    command = [sys.executable, "-m", "bench.load", server.url, "--key", SECRET, *arguments]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**json.loads(output), "cpu_s": server.cpu_s - cpu_s}


def bench_streams(servers: list[Server], num_streams: int, num_tokens: int) -> None:
    """One row for each server, and the ratio of CPU per chunk."""
    costs = []
    for server in servers:
        result = run_load(server, "--streams", str(num_streams), "--tokens", str(num_tokens))
        costs.append(1e6 * result["cpu_s"] / result["chunks"])
        print(
            f"| {num_streams} streams | {server.name} | {costs[-1]:.1f} | {result['chunks'] / result['seconds']:.0f} | "
            f"{100 * result['cpu_s'] / result['seconds']:.0f}% | {result['ttft_p50_ms']:.0f} / "
            f"{result['ttft_p99_ms']:.0f} | {result['complete']:.0f} | {costs[-1] / costs[0]:.2f} |",
            flush=True,
        )


def bench_requests(servers: list[Server], num_requests: int, concurrency: int) -> None:
    """1-token requests, not streamed: one row for each server, and the ratio of requests per second."""
    rates = []
    for server in servers:
        run_load(server, "--requests", "200", "--concurrency", str(concurrency))  # dial, cache the key
        result = run_load(server, "--requests", str(num_requests), "--concurrency", str(concurrency))
        rates.append(result["per_second"])
        print(
            f"| 1-token, {concurrency} at once | {server.name} | {rates[-1]:.0f} | "
            f"{1e6 * result['cpu_s'] / num_requests:.0f} | {result['p50_ms']:.1f} / {result['p99_ms']:.1f} | "
            f"{result['ok']:.0f} | {rates[-1] / rates[0]:.2f} |",
            flush=True,
        )


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[64, 256, 1000])
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--database-url", default="", help="default: SQLite in a temporary folder")
    options = parser.parse_args()
    if options.streams:
        print("| load | server | CPU µs/chunk | chunks/s | CPU | TTFT p50 / p99 ms | complete | ratio |")
        print("|---|---|---|---|---|---|---|---|")
        with run_bare() as bare, run_ours(STEP_S, options.database_url) as ours:
            run_load(ours, "--streams", "1", "--tokens", "2")  # dial
            run_load(bare, "--streams", "1", "--tokens", "2")
            for num_streams in options.streams:
                bench_streams([bare, ours], num_streams, options.tokens)
    if options.requests:
        print("\n| load | server | requests/s | CPU µs/request | p50 / p99 ms | ok | ratio |")
        print("|---|---|---|---|---|---|---|")
        with run_bare() as bare, run_ours(0.0, options.database_url) as ours:
            bench_requests([bare, ours], options.requests, options.concurrency)


if __name__ == "__main__":
    main()
