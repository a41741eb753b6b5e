"""Rewrites a model's linear layers: weights as the processor wants them, and one product where several share an input.

A dense weight is reordered by the matrix library in every call; a packed one once. Query, key and value (gate and up)
read the same input: their weights become one. Which layers do is not read from names but seen in a forward pass. The
layers of a product are still called one by one by the model's own code: the first computes for all.
It knows no engine and no request. Only for CPUs, with `gpu_worker.kernels.native` loaded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear as multiply

from gpu_worker.file_pages import MappedFiles

# Names of linear layers of a model that read the same input, in the order in which they are called.
Groups = list[list[str]]

# Rows for which the library may choose the layout; any number of rows can be computed with it.
_PACKED_FOR_ROWS = 32
_COMPARED_ROWS = 8192
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class PackingError(Exception):
    """A packed weight does not give the product it should; the message is a sentence for the operator."""


class Product:
    """The product of one input with the weights of all members of a group."""

    def __init__(self, linears: list[nn.Linear]) -> None:
        self._linears = linears  # emptied when they are packed
        self._index: int | None = None  # of the packed weight in the native state
        self.sizes = [linear.out_features for linear in linears]
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def compute(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """The output of one member. Members are called in turn with the same tensor: the first computes for all."""
        if len(self.sizes) == 1:
            return self._multiply(x)
        if self._input is not x:
            self._input, self._outputs = x, self._multiply(x).split(self.sizes, dim=-1)
        output = self._outputs[position]
        if position == len(self.sizes) - 1:
            self._input, self._outputs = None, ()  # a tensor of a step must not outlive it
        return output

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        if self._index is None:
            return torch.cat([multiply(x, linear.weight, linear.bias) for linear in self._linears], dim=-1)
        packed: torch.Tensor = torch.ops.atrium.linear(x, self._index, sum(self.sizes))
        return packed

    def skip_weights(self, index: int) -> None:
        """The product has this number, and no weights here: they are packed, or the model is only looked at."""
        self._index, self._linears = index, []

    @property
    def num_elements(self) -> int:
        """Of the dense weights."""
        return sum(linear.weight.numel() for linear in self._linears)

    @torch.inference_mode()
    def pack(self, state: int, index: int) -> None:
        """Give the weights to the native state and forget them. Raises PackingError and changes nothing."""
        weights = [linear.weight for linear in self._linears]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        biases = [linear.bias for linear in self._linears if linear.bias is not None]
        bias = torch.cat(biases) if biases else None
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _PACKED_FOR_ROWS)
        _compare(weight, packed, bias)
        torch.ops.atrium.set_linear(state, index, packed, bias)
        self.skip_weights(index)


class PackedLinear(nn.Module):
    """Stands where a linear layer stood."""

    def __init__(self, product: Product, position: int, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._product, self._position = product, position
        self._like = linear.weight.new_zeros(1)

    @property
    def weight(self) -> torch.Tensor:
        """Not the weight: a tensor of its type and shape, for code that looks at those."""
        return self._like.expand(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product.compute(x, self._position)


def find_groups(model: nn.Module, run: Callable[[], Any]) -> Groups:
    """Every plain linear layer that is called exactly once while `run` runs the model, grouped by its input."""
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    calls: list[tuple[str, torch.Tensor]] = []

    def note_calls_of(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            calls.append((name, args[0]))  # kept until all is compared, so that no address is used twice

        return note

    hooks = [module.register_forward_pre_hook(note_calls_of(name)) for name, module in linears.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, _ in calls]
    groups: Groups = []
    previous = None
    for name, x in calls:
        if names.count(name) > 1:
            previous = None
            continue
        if x is previous and _are_alike(linears[groups[-1][-1]], linears[name]):
            groups[-1].append(name)
        else:
            groups.append([name])
        previous = x
    return groups


def replace_linears(model: nn.Module, groups: Groups) -> list[Product]:
    """Put the groups' products in the place of their layers. Weights stay as they are until they are packed."""
    products = []
    for names in groups:
        linears = [model.get_submodule(name) for name in names]
        product = Product(linears)
        for position, (name, linear) in enumerate(zip(names, linears, strict=True)):
            model.set_submodule(name, PackedLinear(product, position, linear))
        products.append(product)
    return products


def restore_linears(model: nn.Module, linears: dict[str, nn.Module]) -> None:
    """Undo `replace_linears`, as long as nothing has been packed."""
    for name, linear in linears.items():
        model.set_submodule(name, linear)


def list_linears(model: nn.Module, groups: Groups) -> dict[str, nn.Module]:
    """The layers of the groups by name."""
    return {name: model.get_submodule(name) for names in groups for name in names}


def pack_all(products: list[Product], state: int) -> None:
    """Pack one product after the other, so that never more than one has two copies. Raises PackingError."""
    files = MappedFiles()
    files.release()
    # The largest first: its two copies are there while the others have none.
    for index in sorted(range(len(products)), key=lambda index: products[index].num_elements, reverse=True):
        products[index].pack(state, index)
        files.release()


def _are_alike(one: nn.Linear, other: nn.Linear) -> bool:
    return one.weight.dtype == other.weight.dtype and (one.bias is None) == (other.bias is None)


def _compare(weight: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> None:
    """A few rows through both."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, weight.shape[1], generator=generator).to(weight.dtype)
    # In parts, for which the library copies less.
    expected = torch.cat([multiply(x, part) for part in weight.split(_COMPARED_ROWS)], dim=-1)
    expected = (expected if bias is None else expected + bias).float()
    actual = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "").float()
    error = float((actual - expected).norm() / expected.norm().clamp_min(1e-6))
    if not error <= _TOLERANCE[weight.dtype]:
        raise PackingError(f"A packed weight gives other products: {error:.1%}.")
