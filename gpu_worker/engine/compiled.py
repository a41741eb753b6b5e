"""The compiled forward pass: one shared library for all numbers of tokens, without the weights. It knows no engine.

torch.export traces the model once with a symbolic number of tokens; AOTInductor makes a library of it. Attention and
linear layers stay calls of our operators, so a batch needs no padding and no bucket, decodes and prompt chunks run in
the same call, and the file depends on the shapes of the model alone: it is kept for the next start.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from gpu_worker.engine.packing import Groups
from gpu_worker.kernels.native import find_processor

_HERE = Path(__file__).parent
# What the file is made by: a change of any of them is another file.
_SOURCES = [_HERE / name for name in ("compiled.py", "compile_child.py", "packing.py", "attention.py")]
_NUM_SMALL = 16  # inductor's own limit is 8
# The name of the model inside the module that is compiled.
PREFIX = "model."


class ArtifactError(Exception):
    """A compiled forward pass that cannot be loaded; the message is a sentence for the operator."""


@dataclass(frozen=True)
class ArtifactSpec:
    """All that a compiled forward pass depends on but the machine and the software."""

    architecture: str
    config: str  # JSON
    dtype: str
    layers: list[str]  # attention modules, in the order of the cache's layers
    groups: Groups
    tensors: dict[str, str]  # what stays outside the products: name to shape and type
    small_values: dict[str, list[float]]  # of those that inductor writes into the code
    num_threads: int

    @classmethod
    def of(cls, model: Any, layer_of: Mapping[torch.nn.Module, int], groups: Groups) -> "ArtifactSpec":
        """The spec of a loaded model whose linear layers are still its own."""
        names = {module: name for name, module in model.named_modules()}
        packed = {f"{name}.{part}" for group in groups for name in group for part in ("weight", "bias")}
        tensors = {name: tensor for name, tensor in list_tensors(model).items() if name not in packed}
        return cls(
            architecture=type(model).__name__,
            config=model.config.to_json_string(use_diff=False),
            dtype=str(model.dtype).removeprefix("torch."),
            layers=[names[module] for module in layer_of],
            groups=groups,
            tensors={name: describe(tensor) for name, tensor in tensors.items()},
            small_values={
                name: tensor.detach().flatten().tolist()
                for name, tensor in tensors.items()
                if tensor.numel() <= _NUM_SMALL
            },
            num_threads=torch.get_num_threads(),
        )

    def get_path(self, folder: Path) -> Path:
        """Where the library lies, made or not."""
        parts = [json.dumps(asdict(self), sort_keys=True), torch.__version__, transformers.__version__]
        parts += [find_processor(), *(source.read_text() for source in _SOURCES)]
        return folder / f"forward-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.pt2"


def list_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, each under one name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def describe(tensor: torch.Tensor) -> str:
    """Shape and type."""
    return f"{list(tensor.shape)} {tensor.dtype}"


def start_compiling(spec: ArtifactSpec, folder: Path) -> subprocess.Popen[str]:
    """A child process that makes the operators' library and this file, at the lowest priority."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix="spec-", suffix=".json", delete=False) as file:
        json.dump(asdict(spec), file)
    command = [sys.executable, "-m", "gpu_worker.engine.compile_child", file.name, str(folder)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


class AotForward:
    """A loaded library on a model's weights. Implements `CompiledForward`."""

    def __init__(self, package: int, tensors: dict[str, torch.Tensor]) -> None:
        self._package = package
        self._tensors = tensors  # the library keeps their addresses only
        self._run = torch.ops.atrium.run_package.default
        weakref.finalize(self, torch.ops.atrium.close_package, package)

    def __call__(self, input_ids: torch.Tensor, position_ids: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._run(self._package, input_ids, position_ids, indices_R)
        return logits


def load_artifact(path: Path, model: torch.nn.Module) -> AotForward:
    """Load and give it the model's weights, which are not copied. Needs the native library. Raises ArtifactError."""
    try:
        package: int = torch.ops.atrium.open_package(str(path))
        have = {PREFIX + name: tensor for name, tensor in list_tensors(model).items()}
        wanted: list[str] = torch.ops.atrium.list_constants(package)
        if missing := [name for name in wanted if name not in have]:
            raise ArtifactError(f"The compiled model wants tensors that the model lacks: {', '.join(missing[:3])}.")
        tensors = {name: have[name].detach() for name in wanted}
        torch.ops.atrium.set_constants(package, list(tensors), list(tensors.values()))
    except (RuntimeError, OSError) as error:
        raise ArtifactError(f"The compiled model cannot be loaded: {error}") from error
    return AotForward(package, tensors)
