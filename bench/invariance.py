"""What batch-invariant mode costs, and what it is for: the same requests in the ordinary engine and in this one.

Tokens per second of decodes at several batch sizes and of one long prompt, in one process, engines taking turns. Then
how many of 32 greedy answers are the same alone and all together, in each engine.

    python -m bench.invariance                    # the demo model and a random Qwen2 of 28 million parameters
    python -m bench.invariance --models 28m 0.5b --compile off
"""

import argparse
import random
import statistics
import time

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.engine import RANDOM_MODELS
from gpu_worker.engine.build import build_engine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.protocol import Sampling, WorkerConfig
from tests.worker_process import DEMO_MODEL

PROMPT_TOKENS, LONG_PROMPT_TOKENS, NEW_TOKENS = 75, 512, 32
NUM_ANSWERS = 32
ROUNDS = 3
GREEDY = Sampling(seed=0, temperature=0.0)


def load_model(name: str) -> PreTrainedModel:
    if name == "demo":
        return AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.bfloat16).eval()
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", max_position_embeddings=4096, **RANDOM_MODELS[name])
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def make_engine(name: str, compile_mode: str, *, is_invariant: bool) -> PagedEngine:
    config = WorkerConfig(
        model=name,
        max_model_len=1024,
        num_blocks=2048,
        max_num_seqs=NUM_ANSWERS,
        prefix_cache=False,
        engine="paged",
        compile=compile_mode,  # type: ignore[arg-type]
        speculation="off",
        batch_invariant=is_invariant,
    )
    engine = build_engine(load_model(name), config).engine
    assert isinstance(engine, PagedEngine)
    return engine


def make_requests(engine: PagedEngine, num_requests: int, num_prompt: int, num_new: int) -> list[Request]:
    vocab_size = engine._runner._model.config.vocab_size
    rng = random.Random(num_requests)
    prompts = [rng.choices(range(100, vocab_size), k=num_prompt) for _ in range(num_requests)]
    return [Request(f"r{index}", prompt, GREEDY, num_new) for index, prompt in enumerate(prompts)]


def measure_decodes(engine: PagedEngine, batch: int) -> float:
    """Tokens per second while `batch` requests decode and nothing else happens: the median step."""
    for request in make_requests(engine, batch, PROMPT_TOKENS, NEW_TOKENS):
        engine.add(request)
    steps_s = []
    while engine.has_work():
        started_s = time.perf_counter()
        outputs = engine.step()
        if len(outputs) == batch:
            steps_s.append(time.perf_counter() - started_s)
    return batch / statistics.median(steps_s[1:])


def measure_prompt(engine: PagedEngine) -> float:
    """Tokens per second of one prompt."""
    (request,) = make_requests(engine, 1, LONG_PROMPT_TOKENS, 1)
    engine.add(request)
    started_s = time.perf_counter()
    engine.step()
    return LONG_PROMPT_TOKENS / (time.perf_counter() - started_s)


def count_equal(engine: PagedEngine) -> int:
    """Answers that are the same alone and together."""
    alone, together = (make_requests(engine, NUM_ANSWERS, PROMPT_TOKENS, NEW_TOKENS) for _ in range(2))
    for requests in ([[request] for request in alone], [together]):
        for batch in requests:
            for request in batch:
                engine.add(request)
            while engine.has_work():
                engine.step()
    return sum(a.output_token_ids == b.output_token_ids for a, b in zip(alone, together, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "28m"], choices=["demo", *RANDOM_MODELS])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--compile", choices=["on", "off"], default="on")
    options = parser.parse_args()
    columns = [f"B={batch}" for batch in options.batch]
    print(f"| bf16, tok/s | {' | '.join(columns)} | prompt of {LONG_PROMPT_TOKENS} | equal alone and together |")
    print("|---" * (len(columns) + 3) + "|")
    for name in options.models:
        engines = [make_engine(name, options.compile, is_invariant=is_invariant) for is_invariant in (False, True)]
        rounds: list[list[list[float]]] = [[], []]
        for _ in range(ROUNDS):
            for figures, engine in zip(rounds, engines, strict=True):
                figures.append([*(measure_decodes(engine, batch) for batch in options.batch), measure_prompt(engine)])
        ordinary, invariant = (
            [statistics.median(column) for column in zip(*figures, strict=True)] for figures in rounds
        )
        equal = [f"{count_equal(engine)}/{NUM_ANSWERS}" for engine in engines]
        print(f"| {name} | {' | '.join(f'{value:.0f}' for value in ordinary)} | {equal[0]} |")
        cells = [f"{value:.0f} x{value / other:.2f}" for value, other in zip(invariant, ordinary, strict=True)]
        print(f"| {name}, batch-invariant | {' | '.join(cells)} | {equal[1]} |", flush=True)
    print(
        f"\nprompts of {PROMPT_TOKENS} tokens, {NEW_TOKENS} new, compile {options.compile}, {torch.get_num_threads()} "
        f"threads, load average {psutil.getloadavg()[0]:.1f} (the bench's own included)"
    )


if __name__ == "__main__":
    main()
