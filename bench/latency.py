"""How long one user waits while others keep the worker busy: long prompts, full queues, known prefixes.

    python -m bench.latency                 # a random Qwen2 of 28 million parameters
    python -m bench.latency --model FOLDER

Prints a markdown table of ratios, each measured on one worker in one run:

- a prompt of 4,000 tokens arrives while 8 answers stream: their 99th percentile of the time between tokens against
  its median without the newcomer (aim: at most 3);
- a prompt of 4,000 known tokens against the same length unknown: time to the first token (aim: a tenth at most);
- one user's single request behind another's 64: its time to the first token against the idle one (aim: at most 2, and
  a step);
- two users with full queues for a while: tokens served (aim: equal within 10 %).
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from bench.engine import build_random_model
from bench.peers import WORKER_OPTIONS
from bench.worker_link import Answer, WorkerLink, open_link
from tests.worker_process import run_worker

LONG_PROMPT_TOKENS = 4000
PROMPT_TOKENS = 75
FIRST_TOKEN_ID, LAST_TOKEN_ID = 300, 1000  # ordinary ones in every vocabulary
ROUNDS = 3


def make_prompt(rng: random.Random, num_tokens: int) -> list[int]:
    return [rng.randint(FIRST_TOKEN_ID, LAST_TOKEN_ID) for _ in range(num_tokens)]


async def bench_long_prompt(link: WorkerLink, rng: random.Random) -> list[str]:
    """A long prompt arrives among running streams."""
    quiet = await asyncio.gather(*(link.ask(make_prompt(rng, PROMPT_TOKENS), 100) for _ in range(8)))
    median_s = statistics.median(gap for answer in quiet for gap in answer.gaps_s[5:])
    streams = [asyncio.create_task(link.ask(make_prompt(rng, PROMPT_TOKENS), 200)) for _ in range(8)]
    await asyncio.sleep(40 * median_s)
    asked_s = time.perf_counter()
    newcomer = await link.ask(make_prompt(rng, LONG_PROMPT_TOKENS), 1)
    answers: list[Answer] = [await stream for stream in streams]
    ended_s = newcomer.token_times_s[0]
    gaps_s = sorted(
        gap
        for answer in answers
        for gap, time_s in zip(answer.gaps_s, answer.token_times_s[1:], strict=True)
        if asked_s <= time_s <= ended_s
    )
    p99_s = gaps_s[int(0.99 * (len(gaps_s) - 1))]
    return [
        f"time between tokens of 8 streams, median {1000 * median_s:.1f} ms; p99 while a prompt of "
        f"{LONG_PROMPT_TOKENS} is prefilled in {newcomer.ttft_s:.2f} s: {1000 * p99_s:.1f} ms",
        f"{p99_s / median_s:.1f}",
        "≤ 3",
    ]


async def bench_prefix(link: WorkerLink, rng: random.Random) -> list[str]:
    """The same long prompt a second time."""
    cold, known = [], []
    for _ in range(ROUNDS):
        prompt = make_prompt(rng, LONG_PROMPT_TOKENS)
        cold.append((await link.ask(prompt, 1)).ttft_s)
        known.append((await link.ask(prompt, 1)).ttft_s)
    cold_s, known_s = statistics.median(cold), statistics.median(known)
    text = f"first token of a prompt of {LONG_PROMPT_TOKENS}: unknown {cold_s:.2f} s, known {1000 * known_s:.0f} ms"
    return [text, f"{cold_s / known_s:.0f}", "≥ 10"]


async def bench_queue(link: WorkerLink, rng: random.Random) -> list[str]:
    """One request behind another user's 64."""
    idle_s = statistics.median([(await link.ask(make_prompt(rng, PROMPT_TOKENS), 1)).ttft_s for _ in range(5 * ROUNDS)])
    waits_s = []
    for _ in range(ROUNDS):
        crowd = [asyncio.create_task(link.ask(make_prompt(rng, PROMPT_TOKENS), 100, user="crowd")) for _ in range(64)]
        await asyncio.sleep(1.0)
        answer = await link.ask(make_prompt(rng, PROMPT_TOKENS), 4, user="single")
        waits_s.append(answer.ttft_s)
        done = [await task for task in crowd]
    step_s = statistics.median(gap for answer in done for gap in answer.gaps_s if gap)
    wait_s = statistics.median(waits_s)
    text = f"first token behind 64 requests of another user {1000 * wait_s:.0f} ms, idle {1000 * idle_s:.0f} ms"
    return [f"{text}, a step {1000 * step_s:.0f} ms", f"{(wait_s - step_s) / idle_s:.1f}", "≤ 2"]


async def bench_share(link: WorkerLink, rng: random.Random, seconds: float) -> list[str]:
    """Two users who ask as much as they can, one of them for longer answers."""
    num_tokens = {"a": 0, "b": 0}
    ends_s = time.perf_counter() + seconds

    async def keep_asking(user: str, length: int) -> None:
        while time.perf_counter() < ends_s:
            answer = await link.ask(make_prompt(rng, PROMPT_TOKENS), length, user=user)
            num_tokens[user] += PROMPT_TOKENS + sum(time_s < ends_s for time_s in answer.token_times_s)

    await asyncio.gather(*(keep_asking(user, length) for user, length in (("a", 20), ("b", 120)) for _ in range(64)))
    share = max(num_tokens.values()) / min(num_tokens.values())
    text = f"tokens of two users in {seconds:.0f} s, answers of 20 and of 120: {num_tokens['a']} and {num_tokens['b']}"
    return [text, f"{share:.2f}", "≤ 1.1"]


async def run(model: Path, seconds: float) -> None:
    rng = random.Random(0)
    with run_worker(model, **WORKER_OPTIONS, omp_wait_policy="brief", compile="on", max_num_seqs=32) as worker:
        async with open_link(worker) as link:
            await link.ask(make_prompt(rng, PROMPT_TOKENS), 8)
            print("| what | ratio | aim |\n|---|---|---|")
            for row in (
                await bench_long_prompt(link, rng),
                await bench_prefix(link, rng),
                await bench_queue(link, rng),
                await bench_share(link, rng, seconds),
            ):
                print(f"| {' | '.join(row)} |", flush=True)
    print(f"\nload average {psutil.getloadavg()[0]:.1f}, the bench's own included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the comparison of two users")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or build_random_model("28m", Path(folder))
        asyncio.run(run(model.resolve(), options.seconds))


if __name__ == "__main__":
    main()
