"""The same exactness on a CUDA device, where packed sequences have a kernel of their own."""

import copy
import random

import pytest
import torch

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.request import Request
from gpu_worker.kernels.varlen import can_use_varlen
from tests.tiny_models import make_model
from tests.worker.engine.driving import make_config, make_prompt, make_request, run_all

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device (GPU)")]


def make_requests(count: int) -> list[Request]:
    rng = random.Random(6)
    return [make_request(str(i), make_prompt(rng, rng.choice([1, 5, 17, 40]))) for i in range(count)]


@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gemma2", "gpt_oss"])
def test_answers_in_fp32_equal_those_of_the_cpu(architecture: str) -> None:
    on_cpu, on_gpu = make_requests(8), make_requests(8)
    run_all(build_engine(copy.deepcopy(make_model(architecture)), make_config()).engine, on_cpu)
    built = build_engine(copy.deepcopy(make_model(architecture)).cuda(), make_config(num_blocks=24))
    assert built.kind == "paged"
    run_all(built.engine, on_gpu)
    assert [r.output_token_ids for r in on_gpu] == [r.output_token_ids for r in on_cpu]


def test_half_precision_is_served_paged_by_the_packed_kernel() -> None:
    assert can_use_varlen(torch.bfloat16, torch.device("cuda"), {64})
    built = build_engine(copy.deepcopy(make_model("qwen2", torch.bfloat16)).cuda(), make_config())
    assert built.kind == "paged"
    run_all(built.engine, make_requests(8))
