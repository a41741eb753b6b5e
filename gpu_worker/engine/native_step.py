"""Our C++ operators as an engine uses them: one state for a model's cache and packed weights, told of every step."""

import weakref

import numpy as np
import torch

from gpu_worker.engine.batch import Batch, TokenRow
from gpu_worker.engine.kv_cache import KVCache


class NativeState:
    """The native side of one model. The operators work for the state whose step began last."""

    def __init__(self, cache: KVCache, *, weights_of: "NativeState | None" = None) -> None:
        """A state of the same model over another cache shares the packed weights of the first."""
        shared = -1 if weights_of is None else weights_of.number
        self.number: int = torch.ops.atrium.create_state(cache.keys, cache.values, shared)
        weakref.finalize(self, torch.ops.atrium.free_state, self.number)

    def begin_step(self, batch: Batch) -> None:
        """Say where this batch's tokens go and what they may look at."""
        rows = batch.decode_rows
        spans = [number for span in batch.prefills for number in (span.start, span.end, span.num_past)]
        torch.ops.atrium.begin_step(
            self.number,
            batch.slot_mapping_T,
            torch.from_numpy(_make_table(rows, batch.block_size)),
            torch.tensor([row.position + 1 for row in rows], dtype=torch.long),
            spans,
            [span.block_ids for span in batch.prefills],
            any(chunk.request.draft_token_ids for chunk in batch.chunks),
        )

    def begin_tile(self, rows: list[TokenRow], slots_T: torch.Tensor, block_size: int) -> None:
        """The same for a part of a batch, all its tokens attended one by one. Slots beyond the rows are padding."""
        num_padding = len(slots_T) - len(rows)
        table_TB = np.pad(_make_table(rows, block_size), ((0, num_padding), (0, 0)))
        lengths_T = torch.tensor([row.position + 1 for row in rows] + [0] * num_padding)
        torch.ops.atrium.begin_step(self.number, slots_T, torch.from_numpy(table_TB), lengths_T, [], [], True)


def _make_table(rows: list[TokenRow], block_size: int) -> np.ndarray:
    """Block ids [R, B] of what the rows see, as wide as the longest."""
    num_blocks = max((row.position // block_size + 1 for row in rows), default=0)
    table_RB = np.zeros((len(rows), num_blocks), dtype=np.int64)
    for index, row in enumerate(rows):
        held = row.request.block_ids[:num_blocks]
        table_RB[index, : len(held)] = held
    return table_RB
