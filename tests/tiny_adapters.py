"""Random LoRA adapters made and saved by peft, and what peft itself answers with them."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about its own dependencies
    from peft import LoraConfig, PeftModel, get_peft_model

# Of the layers of a tiny model: those of attention, a regular expression for some of the second block, one that has a
# rank of its own, and one that has its own alpha.
NAMES: dict[str, tuple[list[str], str, str, str]] = {
    "llama": (["q_proj", "v_proj"], r".*\.layers\.1\.mlp\.(gate|down)_proj", "down_proj", "layers.1.mlp.gate_proj"),
    "gpt2": (["c_attn"], r".*\.h\.1\.mlp\.c_(fc|proj)", "c_fc", "h.1.mlp.c_proj"),
    "bloom": (["query_key_value"], r".*\.h\.1\.mlp\.dense.*", "dense_h_to_4h", "mlp.dense_4h_to_h"),
}
NAMES["qwen2"] = NAMES["llama"]


def make_settings(architecture: str) -> dict[str, dict[str, Any]]:
    """Several kinds of adapters for one architecture, by a name."""
    attention, pattern, ranked, scaled = NAMES[architecture]
    return {
        "plain": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "rslora": {"r": 6, "lora_alpha": 5, "use_rslora": True, "target_modules": attention},
        "patterns": {
            "r": 2,
            "lora_alpha": 4,
            "target_modules": pattern,
            "rank_pattern": {ranked: 5},
            "alpha_pattern": {scaled: 9},
        },
        "head": {"r": 3, "lora_alpha": 6, "target_modules": [*attention, "lm_head"]},
    }


def make_adapter(model: PreTrainedModel, folder: Path, *, seed: int = 0, spread: float = 0.2, **settings: Any) -> Any:
    """A copy of the model with an adapter of random weights, which is also saved to the folder."""
    config = LoraConfig(**({"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"} | settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied weights, and GPT-2's transposed ones
        adapted = get_peft_model(copy.deepcopy(model), config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return adapted


def load_adapter(model: PreTrainedModel, folder: Path) -> Any:
    """The same, read by peft from what was saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(copy.deepcopy(model), str(folder)).eval()
