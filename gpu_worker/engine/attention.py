"""Attention over the paged cache, in the form transformers calls it; it knows no scheduler and no model class.

transformers looks its attention function up by name, so ours is registered once for the process. What it needs
beyond its arguments (which layer's cache, which blocks) is the `PagedContext` of the forward pass under way.
No mask function is registered under the name: transformers then builds no mask, and ours follow from the batch.
A second name is for a whole prompt with pictures, whose mask the model makes itself.
Shape suffixes: T tokens, R rows, N heads, K key/value heads, G = N / K, D head size, L key positions, Q queries.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from gpu_worker.engine.batch import Batch
from gpu_worker.engine.few_shapes import pad_rows, round_rows
from gpu_worker.engine.kv_cache import KVCache
from gpu_worker.kernels.varlen import attend_varlen

PAGED_ATTENTION = "atrium_paged"
WHOLE_ATTENTION = "atrium_paged_whole"


class UnsupportedAttentionError(Exception):
    """A layer asks for something paged attention cannot do; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class PagedContext:
    """Where the layers of one model find their keys and values during one forward pass."""

    cache: KVCache
    layer_of: dict[torch.nn.Module, int]
    batch: Batch
    use_varlen: bool = False  # whether the device has a kernel for packed sequences
    use_native: bool = False  # whether our own operators do it all: they hold the cache and the step themselves
    rows_step: int = 1  # queries and keys of a prompt chunk are padded to a multiple; the batch may be


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a layer asks for: who is visible, and how query-key products become weights."""

    scale: float
    window: int | None  # a query sees so many tokens, itself included
    softcap: float | None
    sinks_N: torch.Tensor | None

    @classmethod
    def from_options(cls, head_size: int, options: dict[str, Any]) -> "_Rules":
        scale = options.get("scaling")
        return cls(
            scale=head_size**-0.5 if scale is None else scale,
            window=options.get("sliding_window"),
            softcap=options.get("softcap"),
            sinks_N=options.get("s_aux"),
        )

    @property
    def is_plain(self) -> bool:
        """Whether the fused kernels can compute them."""
        return self.softcap is None and self.sinks_N is None


_context: ContextVar[PagedContext] = ContextVar("paged_context")


@contextmanager
def paged_context(context: PagedContext) -> Iterator[None]:
    """Make `context` the one that paged attention uses in this thread."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, N, T, D]
    key: torch.Tensor,  # [1, K, T, D]
    value: torch.Tensor,  # [1, K, T, D of the values]
    attention_mask: torch.Tensor | None,
    **options: Any,  # scaling, sliding_window, softcap, s_aux (sinks), and much that does not concern us
) -> tuple[torch.Tensor, None]:
    """Store the new keys and values, then attend every token to its own request's past. Returns [1, T, N, D]."""
    if attention_mask is not None or options.get("position_bias") is not None:
        raise UnsupportedAttentionError("The model makes its own attention masks or position biases.")
    rules = _Rules.from_options(query.shape[-1], options)
    context = _context.get()
    layer, batch, cache = context.layer_of[module], context.batch, context.cache
    if context.use_native:
        window, softcap = rules.window or 0, rules.softcap or 0.0
        out = torch.ops.atrium.attend(query, key, value, layer, rules.scale, window, softcap, rules.sinks_N)
        return out, None
    num_tokens = len(batch.slot_mapping_T)  # what is behind them fills the batch up
    query_TND, key_TKD, value_TKD = (x[0, :, :num_tokens].transpose(0, 1) for x in (query, key, value))
    cache.store(layer, key_TKD, value_TKD, batch.slot_mapping_T)
    blocks = cache.keys[layer], cache.values[layer]
    if context.use_varlen and rules.is_plain and query.shape[-1] == value.shape[-1]:
        packed = batch.get_packed()
        key_LKD, value_LKD = (x.flatten(0, 1).index_select(0, packed.slots) for x in blocks)
        out_TND = attend_varlen(query_TND, (key_LKD, value_LKD), packed.lengths, scale=rules.scale, window=rules.window)
    else:
        out_TND = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
        out_TND[num_tokens:] = 0
        _attend_all_decodes(query_TND, blocks, batch, rules, out_TND)
        _attend_all_prefills((query_TND, key_TKD, value_TKD), blocks, context, rules, out_TND)
    return out_TND[None], None


def whole_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, N, T, D]
    key: torch.Tensor,  # [1, K, T, D]
    value: torch.Tensor,  # [1, K, T, D of the values]
    attention_mask: torch.Tensor | None,  # [1, 1, T, T], True where a token may look; None is causal
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Store the keys and values of one whole prompt and attend it as its model's mask says. Returns [1, T, N, D]."""
    rules = _Rules.from_options(query.shape[-1], options)
    context = _context.get()
    query_TND, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    context.cache.store(context.layer_of[module], key_TKD, value_TKD, context.batch.slot_mapping_T)
    if attention_mask is not None:
        mask_QL = attention_mask[0, 0]
    else:
        mask_QL = None if rules.is_plain else _make_causal_mask(query)
    return _attend_prefill(query_TND, key_TKD, value_TKD, mask_QL, rules)[None], None


AttentionInterface.register(PAGED_ATTENTION, paged_attention)
AttentionInterface.register(WHOLE_ATTENTION, whole_attention)
AttentionMaskInterface.register(WHOLE_ATTENTION, sdpa_mask)


def _attend_all_decodes(
    query_TND: torch.Tensor,
    blocks: tuple[torch.Tensor, torch.Tensor],
    batch: Batch,
    rules: _Rules,
    out_TND: torch.Tensor,
) -> None:
    """Every group of decodes, each padded to its longest."""
    for group in batch.get_decode_groups(rules.window):
        rows = slice(group.start, group.end)
        key_RKLD, value_RKLD = (
            x.index_select(0, group.block_ids).view(group.end - group.start, -1, *x.shape[2:]).transpose(1, 2)
            for x in blocks
        )
        out_TND[rows] = _attend_decodes(query_TND[rows], key_RKLD, value_RKLD, group.mask_R11L, rules)


def _attend_all_prefills(
    new: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    blocks: tuple[torch.Tensor, torch.Tensor],
    context: PagedContext,
    rules: _Rules,
    out_TND: torch.Tensor,
) -> None:
    """Every prompt chunk against its request's tokens so far."""
    batch, step = context.batch, context.rows_step
    for index, span in enumerate(batch.prefills):
        query_QND, key_LKD, value_LKD = (x[span.start : span.end] for x in new)
        num_queries, num_tokens = span.end - span.start, span.num_past + span.end - span.start
        if span.num_past > 0:
            key_LKD, value_LKD = (x.index_select(0, span.block_ids).flatten(0, 1)[:num_tokens] for x in blocks)
        # Without a past, and within the window, the mask is the plain causal one that kernels know by name.
        is_causal = span.num_past == 0 and (rules.window is None or rules.window >= num_tokens)
        # Keys of padding lie behind all others, where only queries of padding look.
        Q, L = round_rows(num_queries, step), round_rows(num_tokens, step)
        mask_QL = None if is_causal and rules.is_plain else batch.get_prefill_mask(index, rules.window, Q, L)
        padded = pad_rows(query_QND, Q), pad_rows(key_LKD, L), pad_rows(value_LKD, L)
        out_TND[span.start : span.end] = _attend_prefill(*padded, mask_QL, rules)[:num_queries]


def _attend_decodes(
    query_RND: torch.Tensor,
    key_RKLD: torch.Tensor,
    value_RKLD: torch.Tensor,
    mask_R11L: torch.Tensor,
    rules: _Rules,
) -> torch.Tensor:
    """One query per row. Query heads that share a key head become query positions of it: nothing is repeated."""
    num_rows, num_heads, head_size = query_RND.shape
    query_RKGD = query_RND.reshape(num_rows, key_RKLD.shape[1], -1, head_size)
    if rules.is_plain:
        out_RKGD = scaled_dot_product_attention(
            query_RKGD, key_RKLD, value_RKLD, attn_mask=mask_R11L, scale=rules.scale
        )
    else:
        weights = _weigh_by_hand(query_RKGD, key_RKLD, mask_R11L, rules)
        out_RKGD = torch.matmul(weights, value_RKLD)
    return out_RKGD.reshape(num_rows, num_heads, -1)


def _attend_prefill(
    query_QND: torch.Tensor,
    key_LKD: torch.Tensor,
    value_LKD: torch.Tensor,
    mask_QL: torch.Tensor | None,
    rules: _Rules,
) -> torch.Tensor:
    """A chunk of one request against all its tokens so far; no mask means causal from position 0."""
    num_groups = query_QND.shape[1] // key_LKD.shape[1]
    query_1NQD = query_QND.transpose(0, 1)[None]
    key_1NLD, value_1NLD = (x.transpose(0, 1).repeat_interleave(num_groups, dim=0)[None] for x in (key_LKD, value_LKD))
    if mask_QL is None or rules.is_plain:
        out_1NQD = scaled_dot_product_attention(
            query_1NQD, key_1NLD, value_1NLD, attn_mask=mask_QL, is_causal=mask_QL is None, scale=rules.scale
        )
    else:
        out_1NQD = torch.matmul(_weigh_by_hand(query_1NQD, key_1NLD, mask_QL, rules), value_1NLD)
    return out_1NQD[0].transpose(0, 1)


def _make_causal_mask(query: torch.Tensor) -> torch.Tensor:
    """[T, T] for queries [1, N, T, D] that are a whole prompt."""
    num_tokens = query.shape[2]
    return torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=query.device).tril()


def _weigh_by_hand(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor, rules: _Rules) -> torch.Tensor:
    """Weights of the keys with what fused kernels lack: a soft cap on the logits, a learned sink beside the keys."""
    logits = torch.matmul(query, key.transpose(-1, -2)) * rules.scale
    if rules.softcap is not None:
        logits = torch.tanh(logits / rules.softcap) * rules.softcap
    logits = logits.float().masked_fill(~mask, float("-inf"))
    if rules.sinks_N is not None:
        # Heads are [.., K, G, L] in decodes and [.., N, Q, L] in prompts: a sink for each head of either layout.
        num_heads = query.shape[1]
        sinks = rules.sinks_N.float().view(1, num_heads, -1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat([logits, sinks], dim=-1)
    return torch.softmax(logits, dim=-1)[..., : key.shape[-2]].to(key.dtype)
