"""Runs a prompt with pictures through the model: whole, alone, by the model's own forward pass. It knows no schedule.

The model places its pictures, numbers the positions and builds its masks itself, some of which let the tokens of a
picture see each other both ways. Only the attention is ours: it stores keys and values in the blocks, where what
comes after the prompt finds them as after any other.
"""

import inspect
from typing import Any

import numpy as np
import torch

from gpu_worker.engine.attention import WHOLE_ATTENTION, PagedContext, paged_context
from gpu_worker.engine.batch import Batch
from gpu_worker.engine.kv_cache import KVCache
from gpu_worker.engine.lora import adapted, find_whole
from gpu_worker.engine.media import Media
from gpu_worker.engine.request import Request
from gpu_worker.engine.text_attention import get_text_attention, set_text_attention

# What a model's own code may raise on inputs it was not written for, memory that is not there included.
MODEL_ERRORS = (
    TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError, StopIteration,
)  # fmt: skip


class MediaRunner:
    """A model whose attention implementation has been set to the paged one; here it changes for one pass."""

    def __init__(self, model: Any, layer_of: dict[torch.nn.Module, int], cache: KVCache) -> None:
        self._model = model
        self._layer_of = layer_of
        self._cache = cache
        self._positions = find_rope_index(model)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute a batch of one whole prompt and return logits [R, V], one row for every entry of `batch.sampled`."""
        request = batch.chunks[0].request
        media = request.media
        paged = get_text_attention(self._model)
        set_text_attention(self._model, WHOLE_ATTENTION)
        try:
            context = PagedContext(self._cache, self._layer_of, batch)
            with paged_context(context), adapted(self._model, find_whole(request.adapter)):
                output = self._model(
                    input_ids=batch.input_ids_T[None],
                    use_cache=False,
                    logits_to_keep=batch.logits_indices_R,
                    **(to_tensors(media, self._model) if media is not None else {}),
                )
        finally:
            set_text_attention(self._model, paged)
        logits: torch.Tensor = output.logits[0]
        return logits

    def place(self, request: Request) -> None:
        """Note how far the positions of the text behind the pictures lie from the numbers of its tokens."""
        request.position_offset = 0
        if self._positions is not None and request.media is not None:
            input_ids = torch.tensor([request.prompt_token_ids], device=self._model.device)
            request.position_offset = self._positions(input_ids, to_tensors(request.media, self._model))


def find_rope_index(model: Any) -> Any:
    """For models that number positions along height and width: (input_ids, tensors) -> the offset of later text."""
    owner = next((module for module in model.modules() if hasattr(module, "get_rope_index")), None)
    if owner is None:
        return None
    names = inspect.signature(owner.get_rope_index).parameters

    def find_offset(input_ids: torch.Tensor, tensors: dict[str, torch.Tensor]) -> int:
        _, deltas = owner.get_rope_index(input_ids, **{key: tensors[key] for key in tensors if key in names})
        return int(deltas.flatten()[0])

    return find_offset


def to_tensors(media: Media, model: Any) -> dict[str, torch.Tensor]:
    """The inputs on the model's device, pixels in its precision."""
    return {name: _to_tensor(array, model) for name, array in media.inputs.items()}


def _to_tensor(array: np.ndarray, model: Any) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
