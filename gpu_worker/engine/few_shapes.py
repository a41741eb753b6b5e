"""Rounds numbers of rows up where libraries keep code for every shape they meet. It knows no model and no request.

oneDNN and fused attention do in half precision on CPUs: a worker would grow for as long as it meets new lengths of
prompts. A token that fills a batch up is like a token of somebody else's request, which changes nobody's logits.
"""

import torch
from torch.nn.functional import pad

# As many rows as decodes mostly have are worth code of their own; our own operators know the same number.
_ROWS_STEP = 32


def find_rows_step(dtype: torch.dtype, device: torch.device) -> int:
    """What numbers of rows are rounded up to multiples of; 1 where no code is kept."""
    return _ROWS_STEP if device.type == "cpu" and dtype.itemsize == 2 else 1


def round_rows(num_rows: int, step: int) -> int:
    """As many rows, or a few more."""
    return -(-num_rows // step) * step


def pad_rows(x: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Zeros behind the last row, the rows being the first dimension."""
    missing = num_rows - len(x)
    return pad(x, [0, 0] * (x.dim() - 1) + [0, missing]) if missing else x
