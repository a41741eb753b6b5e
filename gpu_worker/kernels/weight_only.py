"""Linear layers whose weights are kept in 8 or 4 bits, for CPUs: torch's own operators, and no other library.

Activations keep their type, and each row of a batch is computed alone. Weights are rounded to the nearest step: for
int8 one scale for each output, for int4 one scale and one offset for each group of inputs of an output. It knows no
engine and no request.

    weight [N, K] ──► int8: q [N, K] in -127 .. 127, scale [N]
                  └─► int4: q [N, K/2], two to a byte, 0 .. 15, value = (q - 8) · scale + offset, [K/group, N, 2]

Legend: R rows, N outputs, K inputs, G groups.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear as multiply

from gpu_worker.file_pages import MappedFiles

WeightBits = Literal["int8", "int4"]

_GROUP_SIZES = (128, 64, 32)
_ROUND_N = _ROUND_K = 16  # the operators' steps
# From so many rows on, the product with a weight that is made dense for the moment is faster than the operator.
_DENSE_ROWS_INT8, _DENSE_ROWS_INT4 = 32, 128
_BLOCK_ROWS = (64, 32)  # of the operator's orders of 4-bit weights
_SMALLEST = 1e-8


class _WeightOnlyLinear(nn.Module):
    """What both kinds share. Not called `weight`: model code that asks for a weight's type must not get this one."""

    packed: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y_RN = self.multiply(x.reshape(-1, self.in_features).contiguous())
        if self.bias is not None:
            y_RN = y_RN + self.bias
        return y_RN.reshape(*x.shape[:-1], self.out_features)

    def multiply(self, x_RK: torch.Tensor) -> torch.Tensor:
        """Without the bias."""
        raise NotImplementedError


class Int8Linear(_WeightOnlyLinear):
    """One byte for each weight."""

    @torch.no_grad()
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight_NK = linear.weight.float()
        scale_N = _round(weight_NK.abs().amax(dim=1).clamp_min(_SMALLEST) / 127, linear)
        self.register_buffer("packed", (weight_NK / scale_N[:, None]).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale_N.to(linear.weight.dtype))

    def multiply(self, x_RK: torch.Tensor) -> torch.Tensor:
        if len(x_RK) >= _DENSE_ROWS_INT8:
            return multiply(x_RK, self.packed.to(x_RK.dtype) * self.scale[:, None])
        return torch._weight_int8pack_mm(x_RK, self.packed, self.scale)


class Int4Linear(_WeightOnlyLinear):
    """Half a byte for each weight."""

    @torch.no_grad()
    def __init__(self, linear: nn.Linear, group_size: int) -> None:
        super().__init__(linear)
        self._group_size = group_size
        weight_NGK = linear.weight.float().unflatten(1, (-1, group_size))
        lowest_NG, highest_NG = weight_NGK.aminmax(dim=2)
        scale_NG = _round(((highest_NG - lowest_NG) / 15).clamp_min(_SMALLEST), linear)
        offset_NG = _round(lowest_NG + 8 * scale_NG, linear)
        steps_NGK = ((weight_NGK - offset_NG[..., None]) / scale_NG[..., None] + 8).round().clamp(0, 15)
        steps_NK = steps_NGK.flatten(1)
        self.register_buffer("packed", torch._convert_weight_to_int4pack_for_cpu(steps_NK.to(torch.int32), 1))
        self._block_rows = _find_block_rows(self.packed, steps_NK.to(torch.uint8))
        scale_GN2 = torch.stack([scale_NG, offset_NG], dim=2).transpose(0, 1).contiguous()
        self.register_buffer("scale", scale_GN2.to(linear.weight.dtype))

    def multiply(self, x_RK: torch.Tensor) -> torch.Tensor:
        if len(x_RK) >= _DENSE_ROWS_INT4 and self._block_rows:
            return multiply(x_RK, self._unpack(self._block_rows).to(x_RK.dtype))
        return torch._weight_int4pack_mm_for_cpu(x_RK, self.packed, self._group_size, self.scale)

    def _unpack(self, block_rows: int) -> torch.Tensor:
        steps_NGK = _unpack_steps(self.packed, block_rows).unflatten(1, (-1, self._group_size))
        scale_NG, offset_NG = self.scale.transpose(0, 1).unbind(dim=2)
        weight_NGK = (steps_NGK.to(self.scale.dtype) - 8).mul_(scale_NG[..., None]).add_(offset_NG[..., None])
        return weight_NGK.flatten(1)


def pack_weights(model: Any, bits: WeightBits) -> int:
    """Replace linear layers of the text model in place; returns how many. Takes seconds for a large one.

    Left as they are: the layer that makes logits, those whose sizes the operators cannot take, and towers for pictures
    and sound, which are small and lose more.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    is_text = model.config.get_text_config() is model.config
    num_packed, files = 0, MappedFiles()
    for parent in list((model if is_text else model.get_decoder() or model).modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not output and (packed := _pack(child, bits)) is not None:
                setattr(parent, name, packed)
                num_packed += 1
                files.release()
    return num_packed


def get_weight_bits(model: Any) -> WeightBits | None:
    """Which kind the model's layers are, if any were replaced."""
    for module in model.modules():
        if isinstance(module, _WeightOnlyLinear):
            return "int8" if isinstance(module, Int8Linear) else "int4"
    return None


def _find_block_rows(packed: torch.Tensor, steps_NK: torch.Tensor) -> int:
    """How the operator of this processor orders the weights, found by trying; 0: in a way that is not known here."""
    fitting = (rows for rows in _BLOCK_ROWS if len(steps_NK) % rows == 0)
    return next((rows for rows in fitting if torch.equal(_unpack_steps(packed, rows), steps_NK)), 0)


def _unpack_steps(packed: torch.Tensor, block_rows: int) -> torch.Tensor:
    """[N, K] of 0 .. 15. In a block of outputs, a byte is one input's step of an output and of that half a block on."""
    num_outputs, half_inputs = packed.shape
    blocks = packed.view(-1, 2 * half_inputs, block_rows // 2)
    return torch.cat([blocks & 15, blocks >> 4], dim=2).transpose(1, 2).reshape(num_outputs, -1)


def _round(values: torch.Tensor, linear: nn.Linear) -> torch.Tensor:
    """As the layer's type keeps them, so that weights are rounded by the very scales that undo it."""
    return values.to(linear.weight.dtype).float()


def _pack(linear: nn.Linear, bits: WeightBits) -> nn.Module | None:
    if linear.out_features % _ROUND_N or linear.in_features % _ROUND_K:
        return None
    if bits == "int8":
        return Int8Linear(linear)
    group_size = next((size for size in _GROUP_SIZES if linear.in_features % size == 0), None)
    return Int4Linear(linear, group_size) if group_size is not None else None
