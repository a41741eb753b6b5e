"""What guessed tokens save and cost: the same requests with and without, on text that repeats itself and on other text.

Repetitive: a question is asked a second time with its answer in the history, greedily, so that the answer repeats it.
Random: a prompt of random tokens, sampled at temperature 2, where next to nothing can be guessed. Both engines live in
this process and take turns; the answers are compared.

    python -m bench.speculation                   # the demo model, plain torch
    python -m bench.speculation --compile on      # with compiled steps
    python -m bench.speculation --model FOLDER --batch 1 2 4
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.protocol import Sampling, WorkerConfig
from tests.worker_process import DEMO_MODEL

MAX_MODEL_LEN = 2048
NEW_TOKENS = 200
ROUNDS = 5
QUESTIONS = ["What is Atrium?", "How do I start Atrium?", "Tell me a story.", "What can the API do?"]

MakeRequests = Callable[[int], list[Request]]


class Result(NamedTuple):
    """One run over all requests of a batch."""

    seconds: float
    num_steps: int
    num_drafted: int
    num_accepted: int
    answers: list[list[int]]

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.answers)) / self.seconds


def make_engine(folder: Path, speculation: str, compile_mode: str) -> PagedEngine:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    config = WorkerConfig(
        model=str(folder),
        max_model_len=MAX_MODEL_LEN,
        num_blocks=1024,
        prefix_cache=False,  # each round computes its prompts
        engine="paged",
        compile=compile_mode,  # type: ignore[arg-type]
        speculation=speculation,  # type: ignore[arg-type]
    )
    engine = build_engine(model, config).engine
    assert isinstance(engine, PagedEngine)
    return engine


def run(engine: PagedEngine, requests: list[Request]) -> Result:
    """Compute the requests together."""
    before = engine.stats()
    started_s = time.perf_counter()
    for request in requests:
        engine.add(request)
    while engine.has_work():
        engine.step()
    seconds, after = time.perf_counter() - started_s, engine.stats()
    return Result(
        seconds,
        after.num_steps - before.num_steps,
        after.num_drafted_tokens - before.num_drafted_tokens,
        after.num_accepted_tokens - before.num_accepted_tokens,
        [request.output_token_ids for request in requests],
    )


def make_request(index: int, prompt: list[int], sampling: Sampling, ends: frozenset[int]) -> Request:
    return Request(f"r{index}", list(prompt), sampling, NEW_TOKENS, eos_token_ids=ends)


def ask_twice(engine: PagedEngine, tokenizer: Any, ends: frozenset[int]) -> list[list[int]]:
    """Prompts in which every question was answered once."""
    prompts = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        first = make_request(0, encode(tokenizer, messages), Sampling(seed=0, temperature=0.0), ends)
        run(engine, [first])
        answer = tokenizer.decode(first.output_token_ids, skip_special_tokens=True)
        prompts.append(encode(tokenizer, [*messages, {"role": "assistant", "content": answer}, *messages]))
    return prompts


def encode(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def compare(engines: list[PagedEngine], make: MakeRequests, batch: int) -> list[str]:
    """A row of the table: medians without and with guesses, which take turns."""
    for engine in engines:
        run(engine, make(batch))
    rounds = [[run(engine, make(batch)) for engine in engines] for _ in range(ROUNDS)]
    plain, guessed = (statistics.median(pair[side].tokens_per_s for pair in rounds) for side in (0, 1))
    one, other = rounds[0]
    same = sum(a == b for a, b in zip(one.answers, other.answers, strict=True))
    share = f"{other.num_accepted}/{other.num_drafted}" if other.num_drafted else "none made"
    return [
        f"{plain:.0f}",
        f"{guessed:.0f}",
        f"{guessed / plain:.2f}",
        f"{one.num_steps}",
        f"{other.num_steps}",
        share,
        f"{same}/{batch}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--compile", choices=["on", "off"], default="off")
    parser.add_argument("--speculation", choices=["auto", "ngram"], default="auto")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    engines = [make_engine(options.model, mode, options.compile) for mode in ("off", options.speculation)]
    ends = frozenset({tokenizer.eos_token_id})
    known = ask_twice(engines[0], tokenizer, ends)
    ordinary = [token for token in range(len(tokenizer)) if token not in set(tokenizer.all_special_ids)]

    def make_repetitive(batch: int) -> list[Request]:
        sampling = Sampling(seed=0, temperature=0.0)
        return [make_request(i, known[i % len(known)], sampling, ends) for i in range(batch)]

    def make_random(batch: int) -> list[Request]:
        rng = random.Random(batch)
        return [
            make_request(i, rng.choices(ordinary, k=75), Sampling(seed=i, temperature=2.0), frozenset())
            for i in range(batch)
        ]

    print("| text | batch | off tok/s | on tok/s | ratio | steps off | on | guesses right | same answers |")
    print("|---" * 9 + "|")
    for name, make in (("repetitive", make_repetitive), ("random", make_random)):
        for batch in options.batch:
            print(f"| {name} | {batch} | {' | '.join(compare(engines, make, batch))} |", flush=True)
    print(
        f"\n{options.model.name}, {engines[0]._runner.cache.keys[0].dtype}, compile {options.compile}, "
        f"{torch.get_num_threads()} threads, load average {psutil.getloadavg()[0]:.1f} (the bench's own included)"
    )


if __name__ == "__main__":
    main()
