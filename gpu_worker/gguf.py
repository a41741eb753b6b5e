"""GGUF files: one file that holds weights, configuration, tokenizer and chat template.

transformers reads them; its weights become plain tensors. Here is what it does not do: tell where an answer ends, and
refuse a file that does not hold the whole model.
"""

import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, GgufConfig
from transformers.integrations.gguf import GgufHeader, read_gguf_metadata

from gpu_worker.load_error import LoadError
from gpu_worker.private_folder import make_private_folder
from gpu_worker.protocol import find_commit

_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of a text, of a turn, of a message to a tool
_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, struct.error)


class GgufFile(NamedTuple):
    """What a file says of itself, read without its weights."""

    dtype: torch.dtype | None  # None: its weights are quantized
    eos_token_ids: list[int]


def isolate(folder: Path, name: str, model: str) -> Path:
    """A folder with a link to the file alone: what lies beside it in the repository is for another form of the model.

    Raises LoadError.
    """
    path = folder / name
    if not path.is_file():
        others = sorted(other.relative_to(folder).as_posix() for other in folder.rglob("*.gguf"))
        there = f" There is {', '.join(others[:5])}." if others else ""
        raise LoadError(f"{model}: there is no file {name}.{there}")
    if _PART.search(name):
        raise LoadError(f"{model} is one part of a model that was split: join the parts (llama-gguf-split --merge).")
    read_file(path)
    target = make_private_folder()
    if commit := find_commit(folder):
        target = target / "snapshots" / commit
        target.mkdir(parents=True)
    (target / path.name).symlink_to(path.resolve())
    return target


def read_file(path: Path) -> GgufFile:
    """Raises LoadError for what is no GGUF file."""
    try:
        metadata, _ = read_gguf_metadata(str(path))
        dtype = GgufHeader.from_file(str(path)).dtype
    except _READ_ERRORS as error:
        raise LoadError(f"{path.name} is no GGUF file that can be read: {error or type(error).__name__}") from error
    named = [metadata.get(f"tokenizer.ggml.{key}") for key in _END_KEYS]
    return GgufFile(dtype, sorted({int(token_id) for token_id in named if token_id is not None}))


def make_load_options(path: Path, dtype: torch.dtype | str) -> dict[str, Any]:
    """What transformers is told. "auto" is the file's own type, and bfloat16 where its weights are quantized."""
    wanted = (read_file(path).dtype or torch.bfloat16) if dtype == "auto" else dtype
    return {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True), "dtype": wanted}


def check_loading(info: dict[str, Any], model: str) -> None:
    """Raises LoadError where weights are missing: transformers would make them up."""
    if missing := sorted(info["missing_keys"]):
        raise LoadError(f"{model} does not hold the whole model: {len(missing)} weights are missing ({missing[0]}).")


def make_generation_config(path: Path) -> GenerationConfig:
    """What the file says of where an answer ends."""
    return GenerationConfig(eos_token_id=read_file(path).eos_token_ids or None)
