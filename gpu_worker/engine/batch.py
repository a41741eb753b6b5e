"""The tensors of one step: what the model reads (tokens, positions) and where attention finds the past.

Tokens of all chunks lie in one row, decodes first, longest context first among them:

    | d0 | d1 d1' | ... | p0 p0 p0 p0 | p1 p1 p1 | ...        T tokens, no padding
      └──── decodes ────┘ └──────── prompt chunks ────────┘

A decode is one row, and one more for each guess behind it (d1'), attended as if it were a decode of its own.
Decodes are attended together, padded to the longest of a group; a new group starts where the context falls below
half of the group's longest, so that one long request does not make all others pay for its length.
Shape suffixes: T tokens of the batch, R rows of a decode group, B blocks, L key positions, Q query positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from gpu_worker.engine.prompt_scores import ScoredRows, find_scored
from gpu_worker.engine.request import Request
from gpu_worker.engine.scheduler import Chunk
from gpu_worker.kernels.varlen import PackedLengths


class TokenRow(NamedTuple):
    """A token that is attended by itself: it sees its request's tokens up to its own position."""

    request: Request
    position: int  # its number among the request's tokens


class DecodeGroup(NamedTuple):
    """Rows [start, end) of the batch, one query token each, and the blocks their windows touch."""

    start: int
    end: int
    block_ids: torch.Tensor  # [R * B]
    mask_R11L: torch.Tensor  # True where the query may look, L = B * block_size


class PrefillSpan(NamedTuple):
    """Tokens [start, end) of the batch, one request's chunk, whose first has position `num_past`."""

    start: int
    end: int
    num_past: int
    block_ids: torch.Tensor  # [B]


class PackedView(NamedTuple):
    """All sequences of the batch for a kernel that takes them packed, decodes and prompts alike."""

    lengths: PackedLengths
    slots: torch.Tensor  # of all keys, sequence by sequence


@dataclass(slots=True)
class Batch:
    """One step's input. Views that depend on a layer's sliding window are made once and shared by its layers."""

    chunks: list[Chunk]  # in batch order
    decode_rows: list[TokenRow]  # of the first tokens of the batch
    block_size: int
    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    slot_mapping_T: torch.Tensor
    logits_indices_R: torch.Tensor  # the last token of every chunk that reaches its request's end, and its guesses
    sampled: list[Chunk]  # those chunks, in the order of `logits_indices_R`
    prefills: list[PrefillSpan]
    scored: list[ScoredRows] = field(default_factory=list)  # tokens of prompts, whose rows follow in `logits_indices_R`
    _decode_groups: dict[int | None, list[DecodeGroup]] = field(default_factory=dict)
    _prefill_masks: dict[tuple[int, int | None], torch.Tensor] = field(default_factory=dict)
    _packed: PackedView | None = None

    def get_decode_groups(self, window: int | None) -> list[DecodeGroup]:
        """Decode rows with the blocks that a window of so many tokens (None: all) can see."""
        groups = self._decode_groups.get(window)
        if groups is None:
            device = self.input_ids_T.device
            groups = [
                DecodeGroup(start, end, *_find_visible(self.decode_rows[start:end], window, self.block_size, device))
                for start, end in _split_by_length(self.decode_rows)
            ]
            self._decode_groups[window] = groups
        return groups

    def get_prefill_mask(self, index: int, window: int | None, num_queries: int, num_keys: int) -> torch.Tensor:
        """[Q, L], True where query token q of prefill `index`, were it so long, may look at position l."""
        mask = self._prefill_masks.get((index, window))
        if mask is None:
            device = self.input_ids_T.device
            queries = self.prefills[index].num_past + torch.arange(num_queries, device=device)[:, None]
            keys = torch.arange(num_keys, device=device)[None, :]
            mask = keys <= queries
            if window is not None:
                mask &= keys > queries - window
            self._prefill_masks[index, window] = mask
        return mask

    def get_packed(self) -> PackedView:
        """The view for packed kernels."""
        if self._packed is None:
            device = self.input_ids_T.device
            num_queries = [chunk.num_tokens for chunk in self.chunks]
            num_keys = [chunk.request.num_computed_tokens + chunk.num_tokens for chunk in self.chunks]
            slots = [
                _find_slots(chunk.request.block_ids, np.arange(length), self.block_size)
                for chunk, length in zip(self.chunks, num_keys, strict=True)
            ]
            offsets = np.cumsum([[0, *num_queries], [0, *num_keys]], axis=1, dtype=np.int32)
            offsets_2S = torch.from_numpy(offsets).to(device)
            self._packed = PackedView(
                lengths=PackedLengths(offsets_2S[0], offsets_2S[1], max(num_queries), max(num_keys)),
                slots=torch.from_numpy(np.concatenate(slots)).to(device),
            )
        return self._packed


def build_batch(chunks: Sequence[Chunk], block_size: int, device: torch.device) -> Batch:
    """Lay out scheduled chunks. The requests must hold the blocks of the tokens to be computed."""
    decodes = [chunk for chunk in chunks if chunk.is_decode]
    decodes.sort(key=lambda chunk: chunk.request.num_computed_tokens, reverse=True)
    ordered = decodes + [chunk for chunk in chunks if not chunk.is_decode]
    token_ids: list[int] = []
    positions: list[np.ndarray] = []
    slots: list[np.ndarray] = []
    logits_indices: list[int] = []
    sampled: list[Chunk] = []
    prefills: list[PrefillSpan] = []
    scored: list[ScoredRows] = []
    scored_indices: list[int] = []
    for chunk in ordered:
        request, num_tokens = chunk
        start, end = request.num_computed_tokens, request.num_computed_tokens + num_tokens
        if not chunk.is_decode:
            blocks = torch.tensor(request.block_ids[: -(-end // block_size)], device=device)
            prefills.append(PrefillSpan(len(token_ids), len(token_ids) + num_tokens, start, blocks))
        if (rows := find_scored(request, end)) is not None:
            scored.append(rows)
            first = len(token_ids) + rows.first - 1 - start
            scored_indices += range(first, first + rows.num_rows)
        token_ids += request.get_token_ids(start, end - len(request.draft_token_ids)) + request.draft_token_ids
        position = np.arange(start, end)
        positions.append(position + (request.position_offset or 0))
        slots.append(_find_slots(request.block_ids, position, block_size))
        if end >= request.num_tokens:
            logits_indices += range(len(token_ids) - 1 - len(request.draft_token_ids), len(token_ids))
            sampled.append(chunk)
    return Batch(
        chunks=ordered,
        decode_rows=list_rows(decodes),
        block_size=block_size,
        input_ids_T=torch.tensor(token_ids, device=device),
        position_ids_T=torch.from_numpy(np.concatenate(positions)).to(device),
        slot_mapping_T=torch.from_numpy(np.concatenate(slots)).to(device),
        logits_indices_R=torch.tensor(logits_indices + scored_indices, dtype=torch.long, device=device),
        sampled=sampled,
        prefills=prefills,
        scored=scored,
    )


def list_rows(chunks: Sequence[Chunk]) -> list[TokenRow]:
    """Every token of the chunks, in order."""
    return [
        TokenRow(chunk.request, chunk.request.num_computed_tokens + offset)
        for chunk in chunks
        for offset in range(chunk.num_tokens)
    ]


def _find_slots(block_ids: list[int], positions: np.ndarray, block_size: int) -> np.ndarray:
    first = positions[0] // block_size
    table = np.array(block_ids[first : positions[-1] // block_size + 1])
    return table[positions // block_size - first] * block_size + positions % block_size


def _split_by_length(rows: list[TokenRow]) -> list[tuple[int, int]]:
    """Ranges of rows, sorted longest first, in which no context is less than half of the longest."""
    ranges: list[tuple[int, int]] = []
    start = 0
    for index, row in enumerate(rows):
        if 2 * (row.position + 1) <= rows[start].position:
            ranges.append((start, index))
            start = index
    if rows:
        ranges.append((start, len(rows)))
    return ranges


def _find_visible(
    rows: list[TokenRow], window: int | None, block_size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Block ids [R * B] and mask [R, 1, 1, L] of what the rows see: positions (p - window, p] for the query at p."""
    position_R = np.array([row.position for row in rows])
    first_R = np.zeros_like(position_R)  # the first visible block
    if window is not None:
        first_R = np.maximum(position_R - window + 1, 0) // block_size
    num_blocks = int((position_R // block_size - first_R).max()) + 1
    blocks_RB = np.zeros((len(rows), num_blocks), dtype=np.int64)
    for index, (row, first) in enumerate(zip(rows, first_R, strict=True)):
        held = row.request.block_ids[first : first + num_blocks]
        blocks_RB[index, : len(held)] = held
    key_RL = first_R[:, None] * block_size + np.arange(num_blocks * block_size)
    mask_RL = key_RL <= position_R[:, None]
    if window is not None:
        mask_RL &= key_RL > position_R[:, None] - window
    mask_R11L = torch.from_numpy(mask_RL[:, None, None, :]).to(device)
    return torch.from_numpy(blocks_RB.reshape(-1)).to(device), mask_R11L
