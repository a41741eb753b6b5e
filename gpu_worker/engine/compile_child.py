"""`python -m gpu_worker.engine.compile_child SPEC FOLDER`: makes the native library and a compiled forward pass.

A process of its own: compiling holds the interpreter for most of a minute, and the engine's thread must be the only
one of its process that runs torch. The model is built without weights, so this costs time but hardly memory.
"""

import fcntl
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._inductor import aoti_compile_and_package
from transformers import AutoConfig

from gpu_worker.engine.attention import PAGED_ATTENTION, PagedContext, paged_context
from gpu_worker.engine.compiled import ArtifactError, ArtifactSpec, describe, list_tensors
from gpu_worker.engine.packing import replace_linears
from gpu_worker.kernels.native import build_library, load_library

_OPTIONS = {
    "aot_inductor.package_constants_in_so": False,
    # Weights are whatever the memory held, mostly zeros: nothing may be concluded from them.
    "joint_graph_constant_folding": False,
    "compile_threads": 1,
}
_NICENESS = 10  # behind the engine, but not so far that a busy one never lets it finish
_NUM_TOKENS, _NUM_LOGITS = 6, 4  # of the example that is traced: any number above one


class Forward(torch.nn.Module):
    """The call of the model that is compiled: all inputs are tensors, all sizes but the model's own are free."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, indices_R: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of the tokens at the indices."""
        output = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False, logits_to_keep=indices_R)
        logits: torch.Tensor = output.logits[0]
        return logits


def build_skeleton(spec: ArtifactSpec) -> Any:
    """The model with the memory of its weights reserved but never touched, and products in place of linear layers."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(spec.config)
        config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = getattr(transformers, spec.architecture)._from_config(config, dtype=getattr(torch, spec.dtype))
    for number, product in enumerate(replace_linears(model.eval(), spec.groups)):
        product.skip_weights(number)
    model = model.to_empty(device="cpu")
    model.set_attn_implementation(PAGED_ATTENTION)
    tensors = list_tensors(model)
    for name, description in spec.tensors.items():
        if name not in tensors or describe(tensors[name]) != description:
            raise ArtifactError(f"Built anew, the model has another {name}.")
    for name, numbers in spec.small_values.items():
        tensors[name].detach().copy_(torch.tensor(numbers).view(tensors[name].shape))
    return model


def compile_forward(spec: ArtifactSpec, path: Path) -> None:
    """Trace and compile, into a file that appears when it is whole."""
    model = build_skeleton(spec)
    layer_of = {model.get_submodule(name): number for number, name in enumerate(spec.layers)}
    free = torch.export.Dim.DYNAMIC
    # Two tensors: inputs that are one and the same would be taken for one input.
    input_ids, position_ids = torch.zeros(1, _NUM_TOKENS, dtype=torch.long), torch.arange(_NUM_TOKENS)[None]
    context = PagedContext(None, layer_of, None, use_native=True)  # type: ignore[arg-type]
    with torch.no_grad(), paged_context(context):
        program = torch.export.export(
            Forward(model),
            (input_ids, position_ids, torch.arange(_NUM_LOGITS)),
            dynamic_shapes=({1: free}, {1: free}, {0: free}),
            strict=False,
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        aoti_compile_and_package(program, package_path=str(made), inductor_configs=_OPTIONS)
        made.replace(path)


def main(spec_path: Path, folder: Path) -> None:
    """Workers of one host may want the same file at the same time: the second finds it made."""
    os.nice(_NICENESS)
    spec = ArtifactSpec(**json.loads(spec_path.read_text()))
    spec_path.unlink()
    torch.set_num_threads(spec.num_threads)  # the loops are cut for so many
    path = spec.get_path(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        load_library(build_library(folder))
        if not path.is_file():
            compile_forward(spec, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
