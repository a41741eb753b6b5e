"""Tiny random decoders of many architectures, made from their configurations: real modelling code, no download.

A model is built once per process and shared, so a test must not change its weights. Weights are drawn wide, so that
answers vary and no two logits are nearly equal.
"""

import functools
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCAB_SIZE = 97
EOS_TOKEN_ID = 2

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS_TOKEN_ID,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
_MIXED_WINDOWS = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 48}

UNSET = object()  # takes a common option back

PAGED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 12},
    "gemma": {},
    "gemma2": {**_MIXED_WINDOWS, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "gemma3_text": {**_MIXED_WINDOWS, "query_pre_attn_scalar": 8},
    "mixtral": {**_MOE, "sliding_window": None},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gpt_oss": {**_MOE, **_MIXED_WINDOWS},
    "phi3": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]},
    "granite": {},
    "cohere": {},
    "cohere2": _MIXED_WINDOWS,
    "glm4": {},
    "smollm3": {},
    "starcoder2": {"sliding_window": 12},
    "stablelm": {},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "head_dim": 4,
    },
    "gpt2": _GPT,
    "gpt_neox": {},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
}

FALLBACK: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": UNSET, "alibi": False, "new_decoder_architecture": False, "multi_query": True},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gptj": {**_GPT, "rotary_dim": 4},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2, "chunk_size": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "llama4_text": {
        "attention_chunk_size": 16,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
}


@functools.cache
def make_model(architecture: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The tiny model of one architecture of PAGED or FALLBACK, in evaluation mode."""
    options = _COMMON | (PAGED | FALLBACK)[architecture]
    options = {name: value for name, value in options.items() if value is not UNSET}
    config = AutoConfig.for_model(architecture, **options)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    # Some architectures fix their own initial spread; biases and norms start constant in all of them.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return model


@functools.cache
def make_one_layer(vocab_size: int, max_model_len: int, eos_token_id: int | None = None) -> PreTrainedModel:
    """The least that speaks a given vocabulary. To be copied before an engine is built on it."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=max_model_len,
        initializer_range=0.5,
        eos_token_id=eos_token_id,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()
