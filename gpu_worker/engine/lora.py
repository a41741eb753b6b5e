"""Low-rank adapters: what they add to the linear layers for the rows of their requests. It knows no file and no queue.

    y += (x A') B' scale        in float32, as peft computes it beside a model in half precision

All rows of an adapter in a step are computed together; rows without one are not touched. While such a step runs, the
layers carry hooks, which see the same inputs and outputs whether a layer is dense, packed or quantized. Other steps
have none; the compiled forward pass, which calls no layer, is theirs alone.
Shape suffixes: T packed tokens, R rows of logits, I inputs, O outputs of a layer, K rank.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from gpu_worker.engine.batch import Batch

Rows: TypeAlias = slice | torch.Tensor
_ALL = slice(None)


class LinearShape(NamedTuple):
    """Of a linear layer."""

    num_inputs: int
    num_outputs: int


@dataclass(frozen=True, slots=True)
class AdapterTargets:
    """What adapters may change in a loaded model."""

    linears: dict[str, LinearShape]
    partial: frozenset[str]  # those of them that do not see all tokens in a step: experts
    head: str  # the layer that makes the logits; empty where it is none of `linears`
    device: torch.device
    obstacle: str = ""  # why there can be none at all, in a sentence


class LowRank(NamedTuple):
    """What one layer gets."""

    a_KI: torch.Tensor
    b_OK: torch.Tensor
    scale: float

    def add_to(self, y_TO: torch.Tensor, x_TI: torch.Tensor, rows: Rows) -> None:
        """Change these rows of the layer's output, in place."""
        dtype = self.a_KI.dtype
        x_K = x_TI[rows].to(dtype) @ self.a_KI.T
        y_TO[rows] = torch.addmm(y_TO[rows].to(dtype), x_K, self.b_OK.T, alpha=self.scale).to(y_TO.dtype)


class LoraAdapter:
    """The weights of one adapter, checked against the model. `digest` names their content."""

    def __init__(self, digest: str, layers: dict[str, LowRank], targets: AdapterTargets) -> None:
        self.digest = digest
        self.layers = layers
        self.head = targets.head
        self._device = targets.device
        self._is_placed = False

    @property
    def num_bytes(self) -> int:
        """What the weights take."""
        return sum(tensor.nbytes for layer in self.layers.values() for tensor in layer[:2])

    def place(self) -> None:
        """Bring the weights to where the model is, once. For the engine thread; raises RuntimeError without memory."""
        if self._is_placed:
            return
        options: Any = {"device": self._device, "dtype": torch.float32}
        self.layers = {
            name: LowRank(layer.a_KI.to(**options), layer.b_OK.to(**options), layer.scale)
            for name, layer in self.layers.items()
        }
        self._is_placed = True


class AdapterRows(NamedTuple):
    """The part of a step that is one adapter's: of the packed tokens, and of the rows whose logits are wanted."""

    adapter: LoraAdapter
    tokens: Rows
    logits: Rows | None  # None: no such row


def find_rows(batch: Batch) -> list[AdapterRows]:
    """The adapters of a batch and their rows; empty when none of its requests has one."""
    adapters = list(dict.fromkeys(c.request.adapter for c in batch.chunks if c.request.adapter is not None))
    if not adapters:
        return []
    number_of = {adapter: number for number, adapter in enumerate(adapters)}
    numbers = [-1 if c.request.adapter is None else number_of[c.request.adapter] for c in batch.chunks]
    owner_T = np.repeat(numbers, [chunk.num_tokens for chunk in batch.chunks])
    if any(adapter.head in adapter.layers for adapter in adapters):
        owner_R = owner_T[batch.logits_indices_R.cpu().numpy()]
    else:
        owner_R = np.empty(0, dtype=owner_T.dtype)
    device = batch.input_ids_T.device
    return [
        AdapterRows(adapter, _select(owner_T == number, device), _select(owner_R == number, device))
        for adapter, number in number_of.items()
    ]


def find_whole(adapter: LoraAdapter | None) -> list[AdapterRows]:
    """For a forward pass of one request alone: all rows are its adapter's, if it has one."""
    return [] if adapter is None else [AdapterRows(adapter, _ALL, _ALL)]


def _select(is_own: np.ndarray, device: torch.device) -> Any:
    """The rows that are true: as a slice, which copies nothing, where they lie side by side; None for no row."""
    indices = np.flatnonzero(is_own)
    if not len(indices):
        return None
    if indices[-1] - indices[0] + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return torch.from_numpy(indices).to(device)


@contextmanager
def adapted(model: Any, parts: list[AdapterRows]) -> Iterator[None]:
    """Within it the model's layers give these rows what their adapters add."""
    wanted: dict[str, list[tuple[LowRank, Rows]]] = {}
    for adapter, tokens, logits in parts:
        for name, layer in adapter.layers.items():
            if (rows := logits if name == adapter.head else tokens) is not None:
                wanted.setdefault(name, []).append((layer, rows))
    hooks = []
    try:
        for name, layers in wanted.items():
            hooks.append(model.get_submodule(name).register_forward_hook(_make_hook(layers)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _make_hook(layers: list[tuple[LowRank, Rows]]) -> Callable[..., None]:
    def add(_module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x_TI = args[0].reshape(-1, args[0].shape[-1])
        y_TO = output.view(-1, output.shape[-1])  # never a copy: it is changed in place
        for layer, rows in layers:
            layer.add_to(y_TO, x_TI, rows)

    return add


def find_targets(
    model: Any, run: Callable[[], Any] | None = None, num_tokens: int = 0, layer_names: tuple[str, ...] = ()
) -> AdapterTargets:
    """The linear layers of a model, by name.

    For an engine that packs requests into one batch, `run` computes `num_tokens` tokens: a layer that gets another
    number of rows, or none although it is inside `layer_names`' stack, could not tell whose they are.
    """
    linears = {name: shape for name, module in model.named_modules() if (shape := _find_shape(module)) is not None}
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head and name in linears]
    partial = _find_partial(model, linears.keys() - set(names), run, num_tokens, layer_names) if run else frozenset()
    return AdapterTargets(linears, partial, names[0] if names else "", model.device)


def _find_shape(module: torch.nn.Module) -> LinearShape | None:
    kind = type(module)
    if kind.__module__.startswith("transformers.models.") and not kind.__name__.endswith("Linear"):
        return None  # a router, say, which is made from a linear layer and returns something else
    for inputs, outputs in (("in_features", "out_features"), ("nx", "nf")):  # the latter: GPT-2's Conv1D
        num_inputs, num_outputs = getattr(module, inputs, None), getattr(module, outputs, None)
        if isinstance(num_inputs, int) and isinstance(num_outputs, int):
            return LinearShape(num_inputs, num_outputs)
    return None


def _find_partial(
    model: Any, names: set[str], run: Callable[[], Any], num_tokens: int, layer_names: tuple[str, ...]
) -> frozenset[str]:
    sees_all: dict[str, bool] = {}

    def note_calls_of(name: str) -> Callable[..., None]:
        def note(_module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
            num_rows = [_count_rows(x) for x in (*args[:1], output)]
            sees_all[name] = sees_all.get(name, True) and num_rows == [num_tokens, num_tokens]

        return note

    hooks = [model.get_submodule(name).register_forward_hook(note_calls_of(name)) for name in names]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    stacks = {_find_stack(name) for name in layer_names}
    return frozenset(name for name in names if not sees_all.get(name, _find_stack(name) not in stacks))


def _count_rows(x: Any) -> int:
    """Of a layer's input or output; none where the rows cannot be changed in place."""
    try:
        return len(x.view(-1, x.shape[-1]))
    except (RuntimeError, AttributeError, IndexError):
        return 0


def _find_stack(name: str) -> str:
    """The list of layers that a module is part of: all before the first number in its name."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0]]) if numbers else ""
