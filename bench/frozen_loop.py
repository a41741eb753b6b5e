"""How near our decode steps come to a loop that is nothing but one batch of one model: the room above the engine.

    OMP_WAIT_POLICY=active python -m bench.frozen_loop --random 28m
    OMP_WAIT_POLICY=active python -m bench.frozen_loop --random 0.5b --batch 1 8

The loop is a Qwen2 written by hand: fused weights, one static tensor of keys and values for a fixed batch, compiled by
inductor with `freezing` for that one shape (5 to 30 s each). No paging, no scheduler, no sampling but argmax, nobody
comes or goes. Ours is the engine, compiled, with as many requests. Both run in this process, in turns; medians.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.engine import NEW_TOKENS, RANDOM_MODELS, build_random_model
from gpu_worker.engine.build import build_engine
from gpu_worker.engine.request import Request
from gpu_worker.protocol import Sampling, WorkerConfig

PROMPT_TOKENS = 75
ROUNDS = 3


class FrozenLoop(torch.nn.Module):
    """One decode step of a Qwen2 for B rows that are all at the same position. L = PROMPT_TOKENS + NEW_TOKENS."""

    def __init__(self, model: PreTrainedModel, batch: int) -> None:
        super().__init__()
        config, inner = model.config, model.model
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_size = config.hidden_size // self._heads
        self._eps = config.rms_norm_eps
        self._embedding = inner.embed_tokens.weight
        self._output = model.lm_head.weight
        self._norm = inner.norm.weight
        self._layers = torch.nn.ModuleList(self._fuse(layer) for layer in inner.layers)  # parameters are what is frozen
        length = PROMPT_TOKENS + NEW_TOKENS
        cos, sin = inner.rotary_emb(self._embedding, torch.arange(length)[None])
        self._cos, self._sin = cos[0], sin[0]
        shape = (len(self._layers), batch, self._kv_heads, length, self._head_size)
        self._keys, self._values = (torch.randn(shape, dtype=self._embedding.dtype) for _ in range(2))
        self._positions = torch.arange(length)

    @staticmethod
    def _fuse(layer: torch.nn.Module) -> torch.nn.ParameterList:
        attention, mlp = layer.self_attn, layer.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        weights = (
            layer.input_layernorm.weight,
            torch.cat([projection.weight for projection in projections]),
            torch.cat([projection.bias for projection in projections]),
            attention.o_proj.weight,
            layer.post_attention_layernorm.weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            mlp.down_proj.weight,
        )
        return torch.nn.ParameterList(torch.nn.Parameter(weight, requires_grad=False) for weight in weights)

    def forward(self, tokens_B: torch.Tensor, position_1: torch.Tensor) -> torch.Tensor:
        """The next tokens [B]; writes the keys and values of these ones."""
        x_BE = embedding(tokens_B, self._embedding)
        cos, sin = self._cos[position_1], self._sin[position_1]
        mask_1L = self._positions[None] <= position_1
        for number, (norm, qkv, bias, out, norm2, gate_up, down) in enumerate(self._layers):
            states = linear(rms_norm(x_BE, norm.shape, norm, self._eps), qkv, bias)
            states = states.view(len(tokens_B), self._heads + 2 * self._kv_heads, self._head_size)
            query, key, value = states.split([self._heads, self._kv_heads, self._kv_heads], dim=1)
            self._keys[number].index_copy_(2, position_1, _rotate(key, cos, sin)[:, :, None])
            self._values[number].index_copy_(2, position_1, value[:, :, None])
            # Heads that share a key head are query positions of it.
            query = _rotate(query, cos, sin).view(len(tokens_B), self._kv_heads, -1, self._head_size)
            y = scaled_dot_product_attention(query, self._keys[number], self._values[number], attn_mask=mask_1L)
            x_BE = x_BE + linear(y.reshape(len(tokens_B), -1), out)
            gate, up = linear(rms_norm(x_BE, norm2.shape, norm2, self._eps), gate_up).chunk(2, dim=-1)
            x_BE = x_BE + linear(silu(gate) * up, down)
        logits_BV = linear(rms_norm(x_BE, self._norm.shape, self._norm, self._eps), self._output)
        return logits_BV.float().argmax(dim=-1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def make_loop(model: PreTrainedModel, batch: int) -> Callable[[], Iterator[float]]:
    """A function that runs NEW_TOKENS steps and yields the seconds of each."""
    step = torch.compile(FrozenLoop(model, batch).eval(), dynamic=False)

    def run() -> Iterator[float]:
        tokens_B = torch.full((batch,), 300)
        for position in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS):
            started_s = time.perf_counter()
            tokens_B = step(tokens_B, torch.tensor([position]))
            yield time.perf_counter() - started_s

    return run


def run_engine(engine: object, batch: int, rng: random.Random) -> Iterator[float]:
    """The same through the engine: yields the seconds of every step without a prompt."""
    sampling = Sampling(seed=0, temperature=0.0)
    for number in range(batch):
        prompt = [rng.randrange(300, 1000) for _ in range(PROMPT_TOKENS)]
        engine.add(Request(id=str(number), prompt_token_ids=prompt, sampling=sampling, max_tokens=NEW_TOKENS))
    num_tokens = 0
    while engine.has_work():
        started_s = time.perf_counter()
        outputs = engine.step()
        num_tokens += len(outputs)
        if num_tokens > 2 * batch and len(outputs) == batch:
            yield time.perf_counter() - started_s


@torch.inference_mode()
def bench(model_folder: Path, batches: list[int]) -> None:
    torch._inductor.config.freezing = True
    load = AutoModelForCausalLM.from_pretrained
    loops = {batch: make_loop(load(model_folder, dtype=torch.bfloat16).eval(), batch) for batch in batches}
    config = WorkerConfig(model=str(model_folder), compile="on", num_blocks=1000, max_model_len=4096)
    engine = build_engine(load(model_folder, dtype=torch.bfloat16).eval(), config).engine
    rng = random.Random(0)
    print("| decode steps, tok/s | frozen loop | the engine | ratio |\n|---|---|---|---|")
    for batch in batches:
        list(loops[batch]()), list(run_engine(engine, batch, rng))  # compile, warm
        loop_s, engine_s = [], []
        for _ in range(ROUNDS):
            loop_s += loops[batch]()
            engine_s += run_engine(engine, batch, rng)
        loop, ours = (batch / statistics.median(seconds) for seconds in (loop_s, engine_s))
        print(f"| B={batch} | {loop:.0f} | {ours:.0f} | {ours / loop:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", choices=sorted(RANDOM_MODELS), default="28m")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench(build_random_model(options.random, Path(folder)), options.batch)


if __name__ == "__main__":
    main()
