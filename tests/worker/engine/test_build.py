"""What is decided at load: paged or fallback and why, how many blocks, how long a context."""

import copy
import random

import pytest
import torch

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.lifecycle import NOT_A_NUMBER
from gpu_worker.engine.paged import PagedEngine
from tests.tiny_models import make_model
from tests.worker.engine.driving import generate, make_config, make_prompt, make_request, run_all


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("bloom", "attention interface"),
        ("mamba2", "0 of its 2 layers"),
        ("lfm2", "1 of its 2 layers"),
        ("llama4_text", "limits attention to 16 tokens"),
    ],
)
def test_the_fallback_says_why(architecture: str, reason: str) -> None:
    built = build_engine(copy.deepcopy(make_model(architecture)), make_config())
    assert built.kind == "fallback"
    assert reason in built.reason
    with pytest.raises(ValueError, match=reason):
        build_engine(copy.deepcopy(make_model(architecture)), make_config(engine="paged"))


def test_different_logits_are_noticed_and_the_model_left_as_it_was() -> None:
    """A model whose attention looks both ways calls every layer, but its packed logits differ."""
    model = copy.deepcopy(make_model("llama"))
    ordinary = model.config._attn_implementation
    model.config.is_causal = False
    built = build_engine(model, make_config())
    assert built.kind == "fallback"
    assert "differ" in built.reason
    assert model.config._attn_implementation == ordinary


def test_rope_that_depends_on_the_batch_is_refused() -> None:
    model = copy.deepcopy(make_model("llama"))
    model.config.rope_parameters = model.config.rope_parameters | {"rope_type": "dynamic", "factor": 2.0}
    assert "dynamic" in build_engine(model, make_config()).reason


def test_the_configuration_may_ask_for_the_fallback() -> None:
    built = build_engine(copy.deepcopy(make_model("qwen2")), make_config(engine="fallback"))
    assert built.kind == "fallback"
    request = make_request("r", make_prompt(random.Random(0), 9))
    run_all(built.engine, [request])
    assert request.output_token_ids == generate(make_model("qwen2"), request)


def test_blocks_follow_the_memory_given() -> None:
    model = make_model("qwen2")
    # 2 layers * 2 heads * (8 + 8) numbers * 4 bytes * 4 tokens
    block_bytes = 2 * 2 * 16 * 4 * 4
    built = build_engine(copy.deepcopy(model), make_config(num_blocks=None, kv_cache_bytes=30 * block_bytes + 5))
    assert (built.num_blocks, built.block_size) == (30, 4)
    generous = build_engine(copy.deepcopy(model), make_config(num_blocks=None))
    assert generous.num_blocks == 8 * 24  # max_num_seqs requests of max_model_len
    with pytest.raises(ValueError, match="no memory"):
        build_engine(copy.deepcopy(model), make_config(num_blocks=None, kv_cache_bytes=block_bytes - 1))


def test_the_context_is_cut_to_what_the_pool_holds() -> None:
    model = make_model("qwen2")
    assert build_engine(copy.deepcopy(model), make_config(num_blocks=10)).engine.max_model_len == 40
    assert (
        build_engine(copy.deepcopy(model), make_config(num_blocks=99, max_model_len=None)).engine.max_model_len == 256
    )
    with pytest.raises(ValueError, match="256 positions"):
        build_engine(copy.deepcopy(model), make_config(max_model_len=300))


def test_values_that_are_not_numbers_end_their_request_only() -> None:
    """A poisoned embedding: its request fails, its neighbours and whoever gets its blocks next do not notice."""
    model = copy.deepcopy(make_model("llama"))
    engine = build_engine(model, make_config(num_blocks=24)).engine
    assert isinstance(engine, PagedEngine)
    with torch.no_grad():
        model.get_input_embeddings().weight[50] = float("nan")
    rng = random.Random(2)
    prompts = [[token for token in make_prompt(rng, 20) if token != 50] for _ in range(6)]
    poisoned = make_request("poisoned", [*prompts[0][:9], 50, *prompts[0][9:]])
    neighbour, *later = [make_request(str(i), prompt, max_tokens=4) for i, prompt in enumerate(prompts[1:])]
    outputs = run_all(engine, [poisoned, neighbour])
    assert [output.error for output in outputs if output.request is poisoned] == [NOT_A_NUMBER]
    run_all(engine, later)
    for request in (neighbour, *later):
        assert request.output_token_ids == generate(make_model("llama"), request)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_served_paged(dtype: torch.dtype) -> None:
    built = build_engine(copy.deepcopy(make_model("qwen2", dtype)), make_config())
    assert built.kind == "paged"
    request = make_request("r", make_prompt(random.Random(0), 9))
    run_all(built.engine, [request])
    assert request.finish_reason is not None
