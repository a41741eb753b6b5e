"""Finds and reads adapters: a folder, or a snapshot of the hub, with peft's files. It knows no request and no engine.

Only safetensors are read, never pickles. Blocking, and made for any thread but the engine's and the event loop's: no
operator of torch runs here, so no thread beside the engine's gets a team of OpenMP threads.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from gpu_worker.adapters.settings import AdapterError, LoraSettings, read_settings
from gpu_worker.engine.lora import AdapterTargets, LoraAdapter, LowRank
from gpu_worker.hub import HubError, download
from gpu_worker.protocol import AdapterRef

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_FILES = [CONFIG_FILE, WEIGHTS_FILE]
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class AdapterReader:
    """Reads adapters for one model. Thread-safe."""

    def __init__(self, targets: AdapterTargets, *, local_files_only: bool = False) -> None:
        self._targets = targets
        self._local_files_only = local_files_only

    def find_version(self, ref: AdapterRef) -> str:
        """What the files of a folder look like: something else once they are replaced. Empty for a hub id."""
        folder = _find_folder(ref)
        if folder is None:
            return ""
        try:
            stats = [(folder / name).stat() for name in _FILES]
        except OSError:
            return ""  # `read` says what is missing
        return " ".join(f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}" for stat in stats)

    def read(self, ref: AdapterRef) -> LoraAdapter:
        """Read an adapter and check it against the model. Raises AdapterError."""
        if self._targets.obstacle:
            raise AdapterError(self._targets.obstacle)
        folder = _find_folder(ref) or self._download(ref)
        try:
            config, weights = ((folder / name).read_bytes() for name in _FILES)
        except OSError as error:
            raise AdapterError(_explain_missing(folder)) from error
        settings = read_settings(config)
        try:
            tensors = safetensors.torch.load(weights)
        except (SafetensorError, ValueError, KeyError) as error:
            raise AdapterError(f"Its {WEIGHTS_FILE} cannot be read: {error}.") from error
        digest = hashlib.sha256(config + weights).hexdigest()
        return LoraAdapter(digest, _make_layers(tensors, settings, self._targets), self._targets)

    def _download(self, ref: AdapterRef) -> Path:
        try:
            return download(ref.source, ref.revision or None, patterns=_FILES, local_files_only=self._local_files_only)
        except HubError as error:
            raise AdapterError(str(error)) from error


def _find_folder(ref: AdapterRef) -> Path | None:
    """None for what can only be a hub id. Raises AdapterError for a folder that is not there."""
    path = Path(ref.source).expanduser()
    if path.is_dir():
        return path
    if ref.source.startswith((".", "/", "~")) or ref.source.count("/") > 1:
        raise AdapterError("Its folder is not on the model's machine.")
    return None


def _explain_missing(folder: Path) -> str:
    if not (folder / CONFIG_FILE).is_file():
        return f"It has no {CONFIG_FILE}."
    if (folder / "adapter_model.bin").is_file():
        return "Its weights are a pickle (adapter_model.bin), which is not read; peft saves safetensors."
    return f"It has no {WEIGHTS_FILE} that can be read."


def _make_layers(
    tensors: dict[str, torch.Tensor], settings: LoraSettings, targets: AdapterTargets
) -> dict[str, LowRank]:
    """The pairs of matrices by the layer they belong to. Raises AdapterError for whatever is no such pair."""
    matrices: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if (match := _KEY.fullmatch(key)) is None:
            raise AdapterError(f"It has weights that are no LoRA matrix: '{key}'.")
        matrices.setdefault(match["layer"], {})[match["matrix"]] = tensor
    if not matrices:
        raise AdapterError("It has no weights.")
    return {layer: _make_layer(layer, pair, settings, targets) for layer, pair in sorted(matrices.items())}


def _make_layer(layer: str, pair: dict[str, Any], settings: LoraSettings, targets: AdapterTargets) -> LowRank:
    shape = targets.linears.get(layer)
    if shape is None:
        raise AdapterError(f"It adapts '{layer}', which is not a linear layer of this model.")
    if layer in targets.partial:
        raise AdapterError(f"It adapts '{layer}', which does not see all tokens, as an expert does: not supported.")
    if pair.keys() != {"A", "B"}:
        raise AdapterError(f"It has only one of two matrices for '{layer}'.")
    a_KI, b_OK = pair["A"], pair["B"]
    rank = settings.get_rank(layer)
    wanted = [rank, shape.num_inputs], [shape.num_outputs, rank]
    if ([*a_KI.shape], [*b_OK.shape]) != wanted:
        raise AdapterError(
            f"Its matrices for '{layer}' have the shapes {[*a_KI.shape]} and {[*b_OK.shape]}; "
            f"with this model and its own rank they would have {wanted[0]} and {wanted[1]}."
        )
    if a_KI.dtype not in _DTYPES or b_OK.dtype not in _DTYPES:
        raise AdapterError(f"Its matrices for '{layer}' are neither float32 nor float16 nor bfloat16.")
    return LowRank(a_KI, b_OK, settings.get_scale(layer))
