"""Flash attention over packed sequences on CUDA (`torch.nn.attention.varlen`): decodes and prompts in one call.

It reads keys and values that were gathered from their blocks, so any block size will do. Whether it may be used is
found out by using it: a small case is compared with plain attention once, when a model is loaded.
"""

import logging
from typing import NamedTuple

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

logger = logging.getLogger(__name__)

_TOLERANCE = 2e-2  # half precision
_MIN_CAPABILITY = (8, 0)


class PackedLengths(NamedTuple):
    """Where every sequence begins in packed queries and keys (int32 offsets), and the longest."""

    query_offsets: torch.Tensor
    key_offsets: torch.Tensor
    max_queries: int
    max_keys: int


def attend_varlen(
    query_TND: torch.Tensor,
    past_LKD: tuple[torch.Tensor, torch.Tensor],
    lengths: PackedLengths,
    *,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention [T, N, D] of sequences whose queries are their last tokens, to packed keys and values.

    A window of w lets a query see itself and the w - 1 tokens before it.
    """
    key_LKD, value_LKD = past_LKD
    out: torch.Tensor = varlen_attn(
        query_TND.contiguous(),
        key_LKD,
        value_LKD,
        *lengths,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query_TND.shape[1] != key_LKD.shape[1],
    )
    return out


def can_use_varlen(dtype: torch.dtype, device: torch.device, head_sizes: set[int]) -> bool:
    """Whether the kernel runs here for these types, and computes what plain attention does."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return False
    try:
        return all(_is_right(dtype, device, head_size) for head_size in head_sizes)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        logger.info("varlen attention is not used: %s", error)
        return False


@torch.inference_mode()
def _is_right(dtype: torch.dtype, device: torch.device, head_size: int) -> bool:
    """Three queries at the end of five tokens, four query heads on two key heads, a window of three."""
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn(length, heads, head_size, dtype=dtype, device=device, generator=generator)
        for length, heads in ((3, 4), (5, 2), (5, 2))
    )
    offsets = torch.tensor([[0, 3], [0, 5]], dtype=torch.int32, device=device)
    actual = attend_varlen(query, (key, value), PackedLengths(offsets[0], offsets[1], 3, 5), scale=0.3, window=3)
    position = torch.arange(5, device=device)
    mask = (position <= position[2:, None]) & (position > position[2:, None] - 3)
    expected = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1).repeat_interleave(2, dim=0)[None],
        value.transpose(0, 1).repeat_interleave(2, dim=0)[None],
        attn_mask=mask,
        scale=0.3,
    )[0].transpose(0, 1)
    return bool((actual - expected).abs().max() <= _TOLERANCE)
