"""The tensors that hold keys and values of all requests, cut into blocks. It knows no request.

One pair of tensors per attention layer; a slot is one token's place, and block b owns the slots
[b * block_size, (b + 1) * block_size):

    keys[layer]    [num_blocks, block_size, num_kv_heads, key_head_size]
    values[layer]  [num_blocks, block_size, num_kv_heads, value_head_size]
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer stores for a token."""

    num_kv_heads: int
    key_head_size: int
    value_head_size: int

    @property
    def num_elements(self) -> int:
        """Numbers stored for one token, keys and values together."""
        return self.num_kv_heads * (self.key_head_size + self.value_head_size)


class KVCache:
    """Allocates the blocks of every layer. Unused blocks cost no memory on a CPU."""

    def __init__(
        self,
        shapes: list[LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        for shape in shapes:
            leading = (num_blocks, block_size, shape.num_kv_heads)
            self.keys.append(_allocate_zeros((*leading, shape.key_head_size), dtype, device))
            self.values.append(_allocate_zeros((*leading, shape.value_head_size), dtype, device))

    def store(self, layer: int, key_TND: torch.Tensor, value_TND: torch.Tensor, slot_mapping_T: torch.Tensor) -> None:
        """Write the keys and values of T tokens to their slots."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slot_mapping_T, key_TND)
        self.values[layer].flatten(0, 1).index_copy_(0, slot_mapping_T, value_TND)

    def zero_blocks(self, block_ids: list[int]) -> None:
        """Overwrite blocks, as after a forward pass that left values in them that are not numbers."""
        for tensor in (*self.keys, *self.values):
            tensor[block_ids] = 0


def _allocate_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, since masked slots are multiplied by a probability of 0 and 0 * NaN is NaN."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros come from calloc: the pages of a block cost memory only once it is written.
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)
