"""Memory of a whole installation under mixed load for a long time: answers, streams, cut streams, refused requests.

    python -m bench.soak --minutes 60

Starts `manage.py serve` with the demo model in a folder of its own and prints a markdown table of each process's
resident memory and open files over time, then what grew between the first quarter and the end.
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from tests.live.installation import MODEL, Installation, run_installation

WORDS = "which key model quota Paris weather tell name team client curl story number green please seven".split()  # noqa: SIM905 - a list of words reads better so
STREAMS_AT_ONCE = 4
# Blocks cost memory once they have been used, and prefixes are kept until all have been: a small pool is soon full.
KV_CACHE_BYTES = 128 * 2**20


class Sample(NamedTuple):
    """All processes of one role at one moment."""

    rss_mb: float
    num_files: int


async def send_one(http: httpx.AsyncClient, rng: random.Random) -> None:
    """One request of a random kind."""
    text = " ".join(rng.choices(WORDS, k=rng.choice((5, 30, 300))))
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": rng.randint(1, 120)}
    body |= {"temperature": rng.choice((0, 0.8)), "stream": rng.random() < 0.7}
    kind = rng.random()
    if kind < 0.05:
        body["temperature"] = -1  # refused
    elif kind < 0.15:
        body["response_format"] = {"type": "json_object"}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line and kind > 0.8 and rng.random() < 0.1:
                break  # the client leaves


async def load(server: Installation, until_s: float, pause_s: float, seed: int, done: list[int]) -> None:
    """One user, who thinks between two requests."""
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=120) as http:
        while time.monotonic() < until_s:
            await send_one(http, rng)
            done[0] += 1
            await asyncio.sleep(rng.uniform(0, 2 * pause_s))


def take_samples(server: Installation) -> dict[str, Sample]:
    """By role: the server's own processes and the replica's worker, which leads a session of its own."""
    roles: dict[str, set[psutil.Process]] = {"web": set(), "celery": set(), "worker": set()}
    replica = server.get_ready_replica()
    assert replica is not None, "the replica is gone"
    root = psutil.Process(server.process.pid)
    for process in [root, *root.children(recursive=True), psutil.Process(replica["pid"])]:
        command = " ".join(process.cmdline())
        is_web = "uvicorn" in command or "manage.py" in command or "multiprocessing" in command
        role = "celery" if "celery" in command else "web" if is_web else "worker"  # with the compilers it starts
        roles[role].add(process)
    samples = {}
    for role, processes in roles.items():
        rss_bytes = sum(process.memory_info().rss for process in processes)
        samples[role] = Sample(rss_bytes / 2**20, sum(process.num_fds() for process in processes))
    return samples


async def run(server: Installation, minutes: float, pause_s: float) -> None:
    started_s = time.monotonic()
    until_s = started_s + 60 * minutes
    done = [0]
    users = [asyncio.create_task(load(server, until_s, pause_s, seed, done)) for seed in range(STREAMS_AT_ONCE)]
    history: list[dict[str, Sample]] = []
    print("| minute | requests | web MB (files) | celery MB (files) | worker MB (files) |\n|---|---|---|---|---|")
    while time.monotonic() < until_s:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.gather(*users)), min(60 * minutes / 20, until_s - started_s))
        history.append(await asyncio.to_thread(take_samples, server))
        cells = [f"{sample.rss_mb:.0f} ({sample.num_files})" for sample in history[-1].values()]
        print(f"| {(time.monotonic() - started_s) / 60:.0f} | {done[0]} | {' | '.join(cells)} |", flush=True)
    await asyncio.gather(*users)
    early, late = history[len(history) // 4], history[-1]
    growth = ", ".join(f"{role} {late[role].rss_mb / early[role].rss_mb - 1:+.1%}" for role in late)
    print(f"\ngrown since the first quarter: {growth}; {done[0]} requests, {len(server.list_usage())} rows of usage")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two requests of a user")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_installation(Path(folder), "--kv-cache-bytes", str(KV_CACHE_BYTES)) as server,
    ):
        asyncio.run(run(server, options.minutes, options.pause))


if __name__ == "__main__":
    main()
