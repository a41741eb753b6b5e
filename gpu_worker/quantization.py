"""Weights in fewer bits: what can be asked for at load, and what a checkpoint already is. It knows no engine.

`int8` and `int4` are layers of our own (`gpu_worker.kernels.weight_only`), `bnb-8bit` and `bnb-4bit` come from
bitsandbytes.
Checkpoints that are quantized already are loaded by transformers, which needs another package for most of them.
"""

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, CompressedTensorsConfig

from gpu_worker.kernels.weight_only import get_weight_bits, pack_weights
from gpu_worker.load_error import LoadError
from gpu_worker.protocol import WorkerConfig, split_source

# What transformers needs to load checkpoints of a method, as pip calls it, and its module.
_PACKAGES = {
    "aqlm": {"aqlm": "aqlm"},
    "auto-round": {"auto-round": "auto_round"},
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed-tensors": "compressed_tensors"},
    "eetq": {"kernels": "kernels"},
    "fbgemm_fp8": {"fbgemm-gpu": "fbgemm_gpu"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "higgs": {"flute-kernel": "flute"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum-quanto": "optimum"},
    "quark": {"amd-quark": "quark"},
    "spqr": {"spqr-quant": "spqr_quant"},
    "torchao": {"torchao": "torchao"},
    "vptq": {"vptq": "vptq"},
}
_BNB_4BIT_STEPS = (32, 64)
_BITSANDBYTES = {"bnb-4bit", "bnb-8bit"}


def check_quantization(folder: Path, config: WorkerConfig, device: torch.device) -> None:
    """Before anything is read. Raises LoadError where what is asked for, or what the checkpoint is, cannot be had."""
    if config.quantization in _BITSANDBYTES and split_source(config.model).gguf_file:
        raise LoadError(f"The quantization {config.quantization} cannot be made of a GGUF file: use int8 or int4.")
    method = read_method(folder)
    if method and config.quantization:
        raise LoadError(f"{config.model} is quantized already ({method}): quantization must not be set.")
    if method:
        _require(f"{config.model} is quantized by the method {method}, which", _PACKAGES.get(method, {}))
    if config.quantization in _BITSANDBYTES:
        _require(f"The quantization {config.quantization}", _PACKAGES["bitsandbytes"])
    elif config.quantization and device.type != "cpu":
        raise LoadError(
            f"The quantization {config.quantization} is for CPUs, and the device is {device}: use bnb-8bit or bnb-4bit."
        )


def read_method(folder: Path) -> str:
    """By which method a checkpoint is quantized, by its own configuration; empty for one that is not."""
    config = _read_config(folder)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and isinstance(settings := part.get("quantization_config"), dict):
            return str(settings.get("quant_method") or "bitsandbytes")  # which did not name itself at first
    return ""


def make_load_options(
    quantization: str | None, dtype: torch.dtype | str, folder: Path, device: torch.device
) -> dict[str, Any]:
    """What transformers is told for methods of its own. `dtype` may be "auto": the checkpoint's."""
    if device.type == "cpu" and read_method(folder) == "compressed-tensors":
        # Else the first forward pass would make the weights plain, with two copies for a while.
        return {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    if quantization == "bnb-4bit":
        settings = _read_config(folder)
        named = settings.get("dtype") or settings.get("torch_dtype") or "float32"
        compute_dtype = getattr(torch, str(named), torch.float32) if dtype == "auto" else dtype
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype)
        return {"quantization_config": config}
    if quantization == "bnb-8bit":
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # it warns in every product
        # Outlier columns are found among all rows of a batch: with them an answer would depend on its neighbours.
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)}
    return {}


def quantize(model: Any, config: WorkerConfig) -> None:
    """Our own methods, in place, on the model as it was read. Raises LoadError, also for what would fail later."""
    if config.quantization == "bnb-4bit" or describe_quantization(model) == "bnb-4bit":
        _check_sizes(model, config)
    if config.quantization in ("int8", "int4") and not pack_weights(model, config.quantization):
        raise LoadError(f"{config.model} has no layers that the quantization {config.quantization} could make smaller.")


def describe_quantization(model: Any) -> str:
    """For `ModelInfo`: what the weights in memory are; empty where they are plain."""
    if bits := get_weight_bits(model):
        return bits
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return ""
    settings = quantizer.quantization_config
    if isinstance(settings, BitsAndBytesConfig):
        return "bnb-4bit" if settings.load_in_4bit else "bnb-8bit"
    return str(getattr(settings.quant_method, "value", settings.quant_method))


def _check_sizes(model: Any, config: WorkerConfig) -> None:
    """On CPUs, bitsandbytes asserts these in the first forward pass."""
    num_outputs, num_inputs = _BNB_4BIT_STEPS
    for name, module in model.named_modules():
        if type(module).__name__ != "Linear4bit" or module.weight.device.type != "cpu":
            continue
        if module.out_features % num_outputs or module.in_features % num_inputs:
            raise LoadError(
                f"{config.model} cannot be served in bnb-4bit on a CPU, where layers have multiples of {num_outputs} "
                f"outputs and {num_inputs} inputs: {name} has {module.out_features} and {module.in_features}."
            )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):  # whoever reads the file for what is in it says what is wrong
        return {}
    return config if isinstance(config, dict) else {}


def _require(what: str, packages: dict[str, str]) -> None:
    missing = [name for name, module in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise LoadError(f"{what} needs what is not installed: pip install {' '.join(missing)}.")
