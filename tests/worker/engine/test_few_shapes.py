"""In half precision libraries keep code for every shape they meet: the engine lets them meet few of them."""

import copy
import random
from typing import Any

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.few_shapes import find_rows_step
from tests.tiny_models import PAGED, make_model
from tests.worker.engine.driving import (
    generate,
    make_config,
    make_engine,
    make_prompt,
    make_request,
    run_all,
    run_mixed,
)
from tests.worker.engine.test_exactness import FAST, make_traffic

STEP = 32
ARCHITECTURES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow, id=name) for name in PAGED]


class ShapeRecorder(TorchFunctionMode):
    """Notes how many rows linear layers get, and how many queries and keys prompt attention has."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: set[int] = set()
        self.spans: set[tuple[int, int]] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is linear:
            self.rows.add(args[0].numel() // args[0].shape[-1])
        if function is scaled_dot_product_attention and len(args[0]) == 1:
            self.spans.add((args[0].shape[2], args[1].shape[2]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rounding_rows_up_changes_no_answer(architecture: str) -> None:
    """In float32, which needs no rounding, so that answers can be compared with `model.generate`."""
    rng = random.Random(5)
    engine = make_engine(architecture, num_blocks=24)
    engine._runner.rows_step = 4
    requests = make_traffic(rng)[:7]
    for _ in run_mixed(engine, requests, rng):
        pass
    for request in requests:
        assert request.output_token_ids == generate(make_model(architecture), request)


def test_half_precision_meets_few_shapes() -> None:
    engine = make_engine_in_half_precision()
    rng = random.Random(1)
    with ShapeRecorder() as shapes:
        for length in range(33, 97, 3):
            run_all(engine, [make_request(name, make_prompt(rng, length), max_tokens=2) for name in ("a", "b")])
    assert {rows for rows in shapes.rows if rows > STEP} == {96, 128, 160, 192}
    assert all(queries % STEP == keys % STEP == 0 for queries, keys in shapes.spans)


def make_engine_in_half_precision() -> Any:
    config = make_config(max_num_batched_tokens=200, num_blocks=400, max_model_len=200)
    return build_engine(copy.deepcopy(make_model("qwen2", torch.bfloat16)), config).engine


@pytest.mark.parametrize(
    ("dtype", "step"), [(torch.bfloat16, STEP), (torch.float16, STEP), (torch.float32, 1)], ids=["bf16", "fp16", "fp32"]
)
def test_rows_are_rounded_up_where_code_is_kept(dtype: torch.dtype, step: int) -> None:
    assert find_rows_step(dtype, torch.device("cpu")) == step
    assert find_rows_step(dtype, torch.device("cuda")) == 1
