"""Drives an engine through whole requests, step by step, in the test's own thread."""

import copy
import random
from collections.abc import Iterable, Iterator

import torch
from transformers import PreTrainedModel

from gpu_worker.engine.base import Engine
from gpu_worker.engine.build import build_engine
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.protocol import Sampling, WorkerConfig
from tests.tiny_models import EOS_TOKEN_ID, VOCAB_SIZE, make_model

GREEDY = Sampling(seed=0, temperature=0.0)


def make_config(**changes: object) -> WorkerConfig:
    """A small engine: 4-token blocks, and chunks short enough that prompts are cut."""
    return WorkerConfig(
        **{
            "model": "tiny",
            "num_blocks": 96,
            "block_size": 4,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 32,
            "max_model_len": 96,
            "compile": "off",
            "speculation": "off",
        }
        | changes
    )


def make_engine(architecture: str, **changes: object) -> PagedEngine | FallbackEngine:
    """An engine on its own copy of a tiny model: building one changes the model's attention."""
    return build_engine(copy.deepcopy(make_model(architecture)), make_config(**changes)).engine


def make_prompt(rng: random.Random, length: int) -> list[int]:
    """Random tokens that are neither padding nor an end."""
    return [rng.randrange(EOS_TOKEN_ID + 1, VOCAB_SIZE) for _ in range(length)]


def make_request(request_id: str, prompt: list[int], **fields: object) -> Request:
    """A greedy request of 12 tokens unless told otherwise."""
    fields = {"sampling": GREEDY, "max_tokens": 12, "eos_token_ids": frozenset({EOS_TOKEN_ID})} | fields
    return Request(id=request_id, prompt_token_ids=prompt, **fields)


def run_all(engine: Engine, requests: Iterable[Request]) -> list[TokenOutput]:
    """Add all requests and step until nothing is left. A paged engine's bookkeeping is checked after every step."""
    for request in requests:
        engine.add(request)
    outputs: list[TokenOutput] = []
    while engine.has_work():
        outputs += step(engine)
    return outputs


def step(engine: Engine) -> list[TokenOutput]:
    """One step, and the integrity of what a paged engine keeps."""
    outputs = list(engine.step())
    if isinstance(engine, PagedEngine):
        engine.check_integrity()
    return outputs


def run_mixed(engine: Engine, requests: Iterable[Request], rng: random.Random) -> Iterator[list[TokenOutput]]:
    """Steps until nothing is left, while the requests arrive a few at a time. Yields what each step said."""
    arriving = list(requests)
    while arriving or engine.has_work():
        for _ in range(min(rng.choice([0, 1, 2, 5]), len(arriving))):
            engine.add(arriving.pop(0))
        yield step(engine)


@torch.inference_mode()
def generate(model: PreTrainedModel, request: Request) -> list[int]:
    """What transformers itself answers to the request, greedily."""
    input_ids = torch.tensor([request.prompt_token_ids])
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        eos_token_id=list(request.eos_token_ids) or [VOCAB_SIZE],  # a token that never comes
        pad_token_id=0,
    )
    return output[0, len(request.prompt_token_ids) :].tolist()
