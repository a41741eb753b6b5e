"""Runs a batch through the model: tokens in, logits of the rows to sample out. It knows no request."""

from collections.abc import Callable

import torch

from gpu_worker.engine.attention import PagedContext, paged_context
from gpu_worker.engine.batch import Batch
from gpu_worker.engine.few_shapes import find_rows_step, pad_rows, round_rows
from gpu_worker.engine.kv_cache import KVCache
from gpu_worker.engine.lora import AdapterRows, adapted, find_rows
from gpu_worker.engine.native_step import NativeState
from gpu_worker.kernels.varlen import can_use_varlen

# A compiled model: token ids [1, T], positions [1, T] and the indices [R] of the logits wanted; returns them [R, V].
CompiledForward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class ModelRunner:
    """A transformers decoder whose attention implementation has been set to the paged one.

    With `native` its attention (and linear layers, if they were packed) are our own operators; with `compiled` the
    model's modules are called only in steps that have adapters. Both may be set between two steps.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layer_of: dict[torch.nn.Module, int],
        cache: KVCache,
        *,
        native: NativeState | None = None,
        compiled: CompiledForward | None = None,
    ) -> None:
        self._model = model
        self._layer_of = layer_of
        self.cache = cache
        self.native = native
        self.compiled = compiled
        head_sizes = {keys.shape[-1] for keys in cache.keys}
        self.rows_step = find_rows_step(cache.keys[0].dtype, self.device)
        self._use_varlen = can_use_varlen(cache.keys[0].dtype, self.device, head_sizes)

    @property
    def device(self) -> torch.device:
        """Where batches must lie."""
        return self.cache.keys[0].device

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute the batch and return logits [R, V], one row for every entry of `batch.sampled`."""
        if self.native is not None:
            self.native.begin_step(batch)
        return self._run(
            batch.input_ids_T, batch.position_ids_T, batch.logits_indices_R, batch, adapters=find_rows(batch)
        )

    def _run(
        self,
        input_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        indices_R: torch.Tensor,
        batch: Batch,
        adapters: list[AdapterRows],
    ) -> torch.Tensor:
        """One pass over these tokens: logits [R, V] of those at the indices."""
        if self.native is not None and self.compiled is not None and not adapters:
            return self.compiled(input_ids_T[None], position_ids_T[None], indices_R)
        context = PagedContext(
            self.cache, self._layer_of, batch, self._use_varlen, self.native is not None, self.rows_step
        )
        with paged_context(context), adapted(self._model, adapters):
            output = self._model(
                input_ids=self._fill_up(input_ids_T)[None],
                position_ids=self._fill_up(position_ids_T)[None],
                use_cache=False,
                logits_to_keep=self._fill_up(indices_R),
            )
        logits: torch.Tensor = output.logits[0]
        return logits if len(logits) == len(indices_R) else logits[: len(indices_R)]

    def _fill_up(self, values: torch.Tensor) -> torch.Tensor:
        """To a number of rows that is met often. Our own operators do it themselves, where it pays."""
        if self.native is not None or len(values) <= self.rows_step:
            return values
        return pad_rows(values, round_rows(len(values), self.rows_step))
