"""Our C++ operators as an engine uses them: one state for a model's cache and packed weights, told of every step."""

import weakref

import numpy as np
import torch

from gpu_worker.engine.batch import Batch
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
        lengths_R = np.array([chunk.request.num_computed_tokens + 1 for chunk in batch.chunks[: batch.num_decodes]])
        spans = [number for span in batch.prefills for number in (span.start, span.end, span.num_past)]
        torch.ops.atrium.begin_step(
            self.number,
            batch.slot_mapping_T,
            torch.from_numpy(_make_table(batch, lengths_R)),
            torch.from_numpy(lengths_R.astype(np.int64)),
            spans,
            [span.block_ids for span in batch.prefills],
        )


def _make_table(batch: Batch, lengths_R: np.ndarray) -> np.ndarray:
    """Block ids [R, B] of the decodes; the longest comes first."""
    num_blocks = -(-int(lengths_R[0]) // batch.block_size) if len(lengths_R) else 0
    table_RB = np.zeros((len(lengths_R), num_blocks), dtype=np.int64)
    for row, chunk in enumerate(batch.chunks[: batch.num_decodes]):
        held = chunk.request.block_ids[:num_blocks]
        table_RB[row, : len(held)] = held
    return table_RB
