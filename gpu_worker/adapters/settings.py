"""What an adapter's own configuration asks for: honoured, without effect on answers, or refused by name.

The file is peft's adapter_config.json. It knows no weights and no model.
"""

import json
import math
import re
from typing import Any

import msgspec

# They choose the layers, which the weights name, say how training began or went, or only describe.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules",
}  # fmt: skip
_UNSUPPORTED = {
    "alora_invocation_tokens": "It is an activated LoRA",
    "arrow_config": "It routes between adapters (Arrow)",
    "bias": "It has trained biases",
    "kasa_config": "It is a KaSA adapter",
    "layer_replication": "It repeats layers of the model",
    "loftq_config": "It is made for weights quantized by LoftQ",
    "lora_bias": "It has trained biases",
    "megatron_config": "It is made for Megatron",
    "modules_to_save": "It brings whole layers of its own",
    "monteclora_config": "It is a MonteCLoRA adapter",
    "target_parameters": "It adapts parameters that are not those of a linear layer",
    "trainable_token_indices": "It brings embeddings of tokens",
    "use_bdlora": "It is a block-diagonal LoRA",
    "use_dora": "It is a DoRA adapter",
    "use_qalora": "It is a QALoRA adapter",
    "velora_config": "It is a VeLoRA adapter",
}
# Ways to begin that leave the model's own weights as they are. The others (pissa, olora, corda ...) change them.
_HARMLESS_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
_TASKS = (None, "CAUSAL_LM")


class AdapterError(Exception):
    """The adapter cannot be used; the message is a sentence for the client."""


class LoraSettings(msgspec.Struct, frozen=True):
    """The fields that count. A pattern is a part of a layer's name, or a regular expression, and what holds there."""

    peft_type: str = ""
    task_type: str | None = None
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    init_lora_weights: bool | str | None = True

    def get_rank(self, layer: str) -> int:
        """Of this layer's two matrices."""
        return _find(self.rank_pattern, layer, self.r)

    def get_scale(self, layer: str) -> float:
        """What their product is multiplied by."""
        rank = self.get_rank(layer)
        return _find(self.alpha_pattern, layer, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_settings(data: bytes) -> LoraSettings:
    """Raises AdapterError for what cannot be honoured."""
    try:
        given = json.loads(data)
        settings = msgspec.convert(given, LoraSettings)
        for pattern in (*(settings.rank_pattern or ()), *(settings.alpha_pattern or ())):
            re.compile(pattern)
    except (ValueError, RecursionError, re.error) as error:  # msgspec's errors are ValueErrors
        raise AdapterError(f"Its adapter_config.json cannot be read: {error}.") from error
    if settings.peft_type != "LORA":
        raise AdapterError(f"It is no LoRA adapter but one of the type {settings.peft_type or 'unknown'}.")
    if settings.task_type not in _TASKS:
        raise AdapterError(f"It is made for the task {settings.task_type}, not for CAUSAL_LM.")
    if settings.init_lora_weights not in _HARMLESS_INITS:
        raise AdapterError(
            f"It was begun by changing the model's own weights (init_lora_weights: {settings.init_lora_weights}); "
            "peft can save it converted to an ordinary LoRA."
        )
    if any(rank < 1 for rank in (settings.r, *(settings.rank_pattern or {}).values())):
        raise AdapterError("Its rank is not positive (r, rank_pattern).")
    _refuse_unsupported(given)
    return settings


def _refuse_unsupported(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if name in _WITHOUT_EFFECT or name in LoraSettings.__struct_fields__ or not value or value == "none":
            continue
        what = _UNSUPPORTED.get(name, "It has a setting that is not known here")
        raise AdapterError(f"{what} ({name}), which is not supported.")


def _find(pattern: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """As peft looks it up: the first key that the name ends with, or matches, at a dot."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", layer):
            return value
    return default
