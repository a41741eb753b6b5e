"""Batch-invariant forward passes: a token's logits are the same bits whatever else is computed beside it.

Matrix libraries, reductions and vector loops sum and round by the shape of what they are given. So every pass of the
model has the same shape here: tiles of so many tokens, filled up with padding, with our own attention, which computes
each token by itself from its request's keys and values. It knows no request but through the batch.

    a batch   | d0 d1 d2 p0 p0 p0 p0 p0 p0 p0 p0 p0 p0 p0 p0 p0 | p0 p0 p1 p1 p1  -  -  -  -  -  -  -  -  -  -  - |
              └───────────────── one pass ──────────────────────┴────────────── the next, padded ────────────────┘

What the shape cannot promise is tried at load: that a row's place in its tile and its neighbours change nothing.
Shape suffixes: T rows of a tile, R rows of the logits wanted, V vocabulary.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from gpu_worker.engine.acceleration import Acceleration, find_cache_folder, find_obstacle
from gpu_worker.engine.batch import Batch, build_batch, list_rows
from gpu_worker.engine.kv_cache import KVCache
from gpu_worker.engine.model_runner import ModelRunner
from gpu_worker.engine.native_step import NativeState
from gpu_worker.engine.probe import PagedLayers, Plan, make_sequences, run_paged
from gpu_worker.engine.request import Request
from gpu_worker.engine.scheduler import Chunk
from gpu_worker.kernels.native import NativeError, build_library
from gpu_worker.protocol import Sampling, WorkerConfig

logger = logging.getLogger(__name__)

# As many rows as fit one tile of a matrix unit. More would make a single answer slower, fewer a full batch.
TILE_ROWS = 16
# The probe's two sequences side by side, and in pieces that put their tokens at other places beside other neighbours.
_WHOLE: Plan = [[(0, 29), (1, 14)]]
_PIECES: Plan = [[(1, 5), (0, 1)], [(0, 3), (1, 1)], [(0, 1), (1, 8)], [(0, 24)]]
# torch cuts an array of more numbers than this into a part for each thread, and computes by vectors of so many numbers
# what of a part fills them; the rest is computed one by one, by other functions.
_GRAIN, _VECTOR = 32_768, 64
_NUM_TRIED = 1 << 16


class InvariantRunner(ModelRunner):
    """A model runner whose passes all have the same shape. Its `native` must be set before the first."""

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute the batch tile by tile and return logits [R, V], one row for every entry of `logits_indices_R`."""
        if self.native is None:
            raise RuntimeError("the runner was not prepared")
        rows, wanted = list_rows(batch.chunks), batch.logits_indices_R.tolist()
        all_T = torch.arange(TILE_ROWS)
        logits: dict[int, torch.Tensor] = {}
        for start in range(0, len(rows), TILE_ROWS):
            tile = slice(start, start + TILE_ROWS)
            self.native.begin_tile(rows[tile], _fill(batch.slot_mapping_T[tile], -1), batch.block_size)
            inside = [index for index in wanted if start <= index < start + TILE_ROWS]
            # All rows' logits or, where nobody wants any, one row's, which are thrown away.
            indices_R = all_T if inside else all_T[:1]
            logits_TV = self._run(
                _fill(batch.input_ids_T[tile], 0), _fill(batch.position_ids_T[tile], 0), indices_R, batch, []
            )
            logits |= {index: logits_TV[index - start].clone() for index in inside}
        return torch.stack([logits[index] for index in wanted]) if wanted else logits_TV[:0]


def _fill(values_T: torch.Tensor, value: int) -> torch.Tensor:
    return pad(values_T, (0, TILE_ROWS - len(values_T)), value=value)


def build_invariant_runner(model: Any, layers: PagedLayers, cache: KVCache, config: WorkerConfig) -> InvariantRunner:
    """A runner that is ready, and will not change any more. Blocking, the first time while the operators are built.

    Raises ValueError with the reason where the promise cannot be kept.
    """
    runner = InvariantRunner(model, layers.layer_of, cache)
    if obstacle := find_obstacle(model) or _find_uneven_layer(model, layers) or _find_ragged_layer(model, layers):
        raise ValueError(f"batch_invariant is set, but cannot be kept for this model. {obstacle}")
    folder = find_cache_folder(config)
    try:
        build_library(folder)
    except NativeError as error:
        raise ValueError(f"batch_invariant is set, but cannot be kept. {error}") from error
    acceleration = Acceleration(model, layers, runner, folder)
    if config.compile == "on":
        acceleration.prepare()
    # Compiled or not is decided here: in between, the same request would get other bits.
    acceleration.take_up(may_compile=config.compile == "on")
    if not acceleration.is_packed:
        raise ValueError("batch_invariant is set, but the operators it needs cannot be used. The log says why.")
    if config.compile == "on" and runner.compiled is None:
        raise ValueError("compile is set to on, but this model could not be compiled. The log says why.")
    _check(model, layers, runner)
    return runner


def _find_uneven_layer(model: nn.Module, layers: PagedLayers) -> str:
    """Why products have other shapes than the tile's, in a sentence; empty if they do not."""
    if any(parameter.dim() > 2 for parameter in model.parameters()):
        return "It sends tokens to experts, and an expert's products depend on who else is sent there."
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    with _inputs_of(linears) as inputs:
        _run_tile(model, layers)
    uneven = [name for name, x in inputs if x.numel() != TILE_ROWS * x.shape[-1]]
    return f"Its layer {uneven[0]} is not given every token." if uneven else ""


def _find_ragged_layer(model: nn.Module, layers: PagedLayers) -> str:
    """Why numbers of a tile would be rounded by where they stand in it, in a sentence; empty if they are not.

    Of the functions of single numbers only activations are more than one operation that every processor rounds alike.
    """
    homes = ("transformers.activations", "torch.nn.modules.activation")
    activations = {name: module for name, module in model.named_modules() if type(module).__module__ in homes}
    with _inputs_of(activations) as inputs:
        _run_tile(model, layers)
    num_threads = torch.get_num_threads()
    for name, x in inputs:
        num_parts = min(num_threads, -(-x.numel() // _GRAIN))
        is_ragged = -(-x.numel() // num_parts) % _VECTOR
        if is_ragged and not _is_even(activations[name], x.dtype):
            return f"With {num_threads} threads its layer {name} is cut within a vector; another number may help."
    return ""


@torch.inference_mode()
def _is_even(activation: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it gives the same bits by vectors and one by one: for all numbers in half precision, else for many."""
    if dtype.itemsize == 2:
        x = torch.arange(_NUM_TRIED, dtype=torch.int32).to(torch.int16).view(dtype)
        x = x[torch.isfinite(x)]
    else:
        x = torch.randn(_NUM_TRIED, generator=torch.Generator().manual_seed(0), dtype=dtype)
    few = torch.cat([activation(part) for part in x.split(_VECTOR // 4)])
    return torch.equal(activation(x).nan_to_num(), few.nan_to_num())


@contextmanager
def _inputs_of(modules: dict[str, nn.Module]) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Collects what the modules are given, by their names, in the order in which they are called."""
    inputs: list[tuple[str, torch.Tensor]] = []

    def watch(name: str, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(lambda _, args: inputs.append((name, args[0])))

    hooks = [watch(name, module) for name, module in modules.items()]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _run_tile(model: Any, layers: PagedLayers) -> None:
    """One pass of a tile's size by the model's ordinary modules."""
    cache = KVCache(layers.shapes, num_blocks=1, block_size=TILE_ROWS, dtype=model.dtype, device=model.device)
    request = Request(
        id="", prompt_token_ids=make_sequences(model)[0][:TILE_ROWS], sampling=Sampling(seed=0), max_tokens=1
    )
    request.block_ids = [0]
    batch = build_batch([Chunk(request, TILE_ROWS)], TILE_ROWS, model.device)
    batch.logits_indices_R = torch.arange(TILE_ROWS)
    ModelRunner(model, layers.layer_of, cache).forward(batch)


def _check(model: Any, layers: PagedLayers, runner: InvariantRunner) -> None:
    """Raises ValueError if on this machine a token's logits depend on where and beside whom it is computed."""

    def make_runner(cache: KVCache) -> ModelRunner:
        own = NativeState(cache, weights_of=runner.native)
        return InvariantRunner(model, layers.layer_of, cache, native=own, compiled=runner.compiled)

    sequences = make_sequences(model)
    whole = run_paged(model, layers, sequences, make_runner, _WHOLE)
    pieces = run_paged(model, layers, sequences, make_runner, _PIECES)
    if not all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True)):
        raise ValueError(
            f"batch_invariant is set, but on this machine, with {torch.get_num_threads()} threads, a token's "
            "logits depend on its place in a batch. Another number of threads may help."
        )
    logger.info("logits do not depend on the batch: passes of %d tokens", TILE_ROWS)
