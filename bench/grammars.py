"""What enforced JSON costs a decode step: the same engine, model and batch, free and with a grammar in every row.

The vocabulary is made up but of a large model's size (151,936 tokens), because that is what a mask's cost depends on.

    python -m bench.grammars                      # a random Qwen2 of 28 million parameters, and of the 0.5B shapes
    python -m bench.grammars --models 28m --batch 32 --steps 60
"""

import argparse
import json
import random
import statistics
import time
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.engine import RANDOM_MODELS
from gpu_worker.engine.build import build_engine
from gpu_worker.engine.grammar import GrammarState
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.frontend.grammars import GrammarCompiler, Vocabulary
from gpu_worker.frontend.structure_parts import make_part
from gpu_worker.protocol import Sampling, Structure, WorkerConfig

VOCAB_SIZE = 151_936
EOS_TOKEN_ID = 0
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 200},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 50},
        "score": {"type": "number"},
    },
    "required": ["title", "tags", "score"],
}


class Timing(NamedTuple):
    """Medians of a step in milliseconds: all of it, and its share of masks and of grammars read on."""

    step_ms: float
    mask_ms: float
    accept_ms: float


def make_vocabulary() -> Vocabulary:
    """An end token, all bytes, and made-up words with and without a space before them."""
    rng = random.Random(0)
    syllables = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzäéö", k=rng.randint(1, 4))) for _ in range(400)]
    marks = ['"', '",', '":', '{"', '"}', "},", '", "', "[]", "\n", "\\n", "1", "23", "456", "--", "()", ". "]
    words = {rng.choice(["", " "]) + rng.choice(marks) for _ in range(400)}
    while len(words) < VOCAB_SIZE:
        words.add(rng.choice(["", " "]) + "".join(rng.choices(syllables, k=rng.randint(1, 3))))
    tokens = [b"<end>", *(bytes([byte]) for byte in range(256)), *(word.encode() for word in sorted(words))]
    return Vocabulary(tokens[:VOCAB_SIZE], [EOS_TOKEN_ID], [EOS_TOKEN_ID])


def make_engine(name: str, batch: int) -> PagedEngine:
    config = AutoConfig.for_model(
        "qwen2", **RANDOM_MODELS[name] | {"vocab_size": VOCAB_SIZE, "tie_word_embeddings": True}
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    settings = WorkerConfig(model=name, max_model_len=256, max_num_seqs=batch, num_blocks=batch * 16, engine="paged")
    engine = build_engine(model, settings).engine
    assert isinstance(engine, PagedEngine)
    return engine


def measure(engine: PagedEngine, state: GrammarState | None, batch: int, steps: int) -> Timing:
    """Medians over the steps, after a few that only warm up."""
    sampling = Sampling(seed=1, temperature=1.0, ignore_eos=state is None)
    for index in range(batch):
        grammar = state.copy() if state is not None else None
        prompt = [1 + (index * 7 + i) % 1000 for i in range(75)]
        request = Request(f"r{index}", prompt, sampling, steps + 40, index, frozenset({EOS_TOKEN_ID}), grammar=grammar)
        engine.add(request)
    clock = Clock()
    clock.watch(engine._sampler._masks, "apply", "mask")
    clock.watch(engine, "_follows_grammar", "accept")
    rows: list[tuple[float, float, float]] = []
    for _ in range(steps + 20):
        clock.spent_s = dict.fromkeys(clock.spent_s, 0.0)
        started_s = time.perf_counter()
        engine.step()
        rows.append((time.perf_counter() - started_s, clock.spent_s["mask"], clock.spent_s["accept"]))
    engine.reset("measured")
    return Timing(*(1e3 * statistics.median(column) for column in zip(*rows[20:], strict=True)))


class Clock:
    """Adds up the time spent in some methods."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call from now on."""
        original = getattr(owner, method)
        self.spent_s[name] = 0.0

        def timed(*args: Any) -> Any:
            started_s = time.perf_counter()
            result = original(*args)
            self.spent_s[name] += time.perf_counter() - started_s
            return result

        setattr(owner, method, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(RANDOM_MODELS), choices=list(RANDOM_MODELS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    vocabulary = make_vocabulary()
    started_s = time.perf_counter()
    compiler = GrammarCompiler(vocabulary)
    mask_size = compiler.mask_size
    print(f"vocabulary of {mask_size} tokens read in {time.perf_counter() - started_s:.2f} s")
    part = make_part(Structure("json_schema", json.dumps(SCHEMA)))
    start = '%llguidance {"no_forcing": true}\nstart: @answer'
    grammars = [
        {"lark_grammar": start},
        {"name": "answer", **part.grammar},
    ]
    started_s = time.perf_counter()
    state = GrammarState(compiler.compile(json.dumps({"grammars": grammars})), mask_size, part.param)
    print(f"schema compiled in {1e3 * (time.perf_counter() - started_s):.1f} ms\n")
    print(f"| {args.batch} rows | free step ms | step with JSON ms | masks ms | reading on ms | both, of the step |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        engine = make_engine(name, args.batch)
        free, bound = measure(engine, None, args.batch, args.steps), measure(engine, state, args.batch, args.steps)
        share = (bound.mask_ms + bound.accept_ms) / bound.step_ms
        cells = (free.step_ms, bound.step_ms, bound.mask_ms, bound.accept_ms)
        print(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {share:.1%} |")


if __name__ == "__main__":
    main()
