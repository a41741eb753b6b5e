"""Runs an encoder, a decoder or a cross-encoder over a batch of inputs of unequal length. Knows no request."""

from typing import Any, NamedTuple

import torch

from gpu_worker.tasks.pooling.heads import Head
from gpu_worker.tasks.pooling.request import Sequence

# How far a padded row may be from the same row alone before padding is given up.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class RowForm(NamedTuple):
    """What a model takes and gives. `output` names the field of its answer that the head reads; with `keeps_last` that
    is computed for the last token alone, and padding is on the left."""

    output: str
    pad_token_id: int
    uses_type_ids: bool
    keeps_last: bool = False


class PoolingModel:
    """A model with its head. One thread."""

    def __init__(self, model: Any, head: Head, form: RowForm) -> None:
        self.can_pad = True
        self._form = form
        self._options = {"logits_to_keep": 1} if form.keeps_last else {}
        self._model = model
        self._head = head

    @torch.inference_mode()
    def run(self, sequences: list[Sequence]) -> torch.Tensor:
        """One float32 row for each, on the CPU."""
        device = self._model.device
        lengths = [len(sequence.token_ids) for sequence in sequences]
        longest = max(lengths)
        rows = [self._pad(s.token_ids, self._form.pad_token_id, longest) for s in sequences]
        masks = [self._pad([1] * length, 0, longest) for length in lengths]
        inputs = {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(masks, device=device),
        }
        if self._form.uses_type_ids:
            type_rows = [self._pad(s.type_ids, 0, longest) for s in sequences]
            inputs["token_type_ids"] = torch.tensor(type_rows, device=device)
        lengths_R = torch.tensor(lengths, device=device)
        skipped_R = torch.tensor([sequence.num_skipped for sequence in sequences], device=device)
        return self._head(self._model(**inputs, **self._options)[self._form.output], lengths_R, skipped_R).cpu()

    def _pad(self, row: list[int], value: int, length: int) -> list[int]:
        padding = [value] * (length - len(row))
        return padding + row if self._form.keeps_last else row + padding

    def probe(self, short: Sequence, long: Sequence) -> int:
        """Run two inputs alone and together: the width of a row, and whether padding changes one (`can_pad`)."""
        alone_1D = self.run([short])
        if alone_1D.ndim != 2:
            raise ValueError("its output is not one row for each input")
        together_RD = self.run([short, long])
        tolerance = _TOLERANCES[self._model.dtype] * max(1.0, float(alone_1D.abs().max()))
        self.can_pad = torch.allclose(alone_1D[0], together_RD[0], rtol=0, atol=tolerance)
        return alone_1D.shape[1]
