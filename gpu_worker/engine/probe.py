"""Decides at load whether a model can be served paged, by running a few tokens both ways.

A model passes when every layer calls the attention function exactly once, tells it the window its mask would
have, and the logits of two packed, chunked, paged sequences equal those of the model's own ordinary path; one that
takes pictures, when the same holds of a prompt with pictures and what follows it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from gpu_worker.engine.attention import PAGED_ATTENTION, UnsupportedAttentionError
from gpu_worker.engine.batch import build_batch
from gpu_worker.engine.kv_cache import KVCache, LayerShape
from gpu_worker.engine.media import MediaPrompt
from gpu_worker.engine.media_runner import MediaRunner, to_tensors
from gpu_worker.engine.model_runner import ModelRunner
from gpu_worker.engine.request import Request
from gpu_worker.engine.scheduler import Chunk
from gpu_worker.engine.text_attention import get_text_attention, set_text_attention
from gpu_worker.protocol import Sampling

logger = logging.getLogger(__name__)

_RECORDING_ATTENTION = "atrium_recording"
_BLOCK_SIZE = 4
# Forward passes over two sequences: which of them, and how many of its tokens, in each.
Plan = list[list[tuple[int, int]]]
_LENGTHS = (29, 14)
_PLAN: Plan = [
    [(0, 11), (1, 13)],  # two prompts side by side
    [(1, 1), (0, 17)],  # a decode beside a chunk with a past
    [(0, 1)],
]
_NUM_BEHIND = 4
# What a model's own code may raise when it meets inputs it was not written for.
_MODEL_ERRORS = (
    UnsupportedAttentionError, TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError,
)  # fmt: skip


class UnsupportedModelError(Exception):
    """The model cannot be served paged; the message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class PagedLayers:
    """What the probe learned: the attention module of every layer in order, and what it stores for a token."""

    layer_of: dict[torch.nn.Module, int]
    shapes: list[LayerShape]


def probe_paged(model: Any, media_prompt: MediaPrompt | None = None) -> PagedLayers:
    """Switch the model to paged attention, or raise UnsupportedModelError and leave it as it was.

    A model that takes pictures is tried with `media_prompt` too.
    """
    ordinary = get_text_attention(model)
    try:
        _check_rope(model.config.get_text_config())
        sequences = make_sequences(model)
        expected = [_run_ordinary(model, sequence) for sequence in sequences]
        expected_media_TV = _run_ordinary_media(model, media_prompt) if media_prompt is not None else None
        layers = _record_layers(model, sequences[0])
        _set_attention(model, PAGED_ATTENTION)
        actual = run_paged(model, layers, sequences)
        for expected_TV, actual_TV in zip(expected, actual, strict=True):
            compare_logits(expected_TV, actual_TV)
        if media_prompt is not None and expected_media_TV is not None:
            compare_logits(expected_media_TV, _run_paged_media(model, layers, media_prompt), "with pictures")
    except UnsupportedModelError:
        set_text_attention(model, ordinary)
        raise
    except _MODEL_ERRORS as error:
        logger.info("the paged probe failed", exc_info=True)
        set_text_attention(model, ordinary)
        raise UnsupportedModelError(f"The model cannot run packed sequences: {error}") from error
    return layers


def _check_rope(config: Any) -> None:
    """Frequencies that change with the longest sequence of a batch would make requests depend on neighbours."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in by_layer_type or [parameters]:
        if (rope_type := rope.get("rope_type")) in ("dynamic", "longrope"):
            raise UnsupportedModelError(
                f"Its rotary embedding ({rope_type}) depends on the longest sequence of a batch."
            )


def make_sequences(model: Any) -> list[list[int]]:
    """The token ids that are run both ways."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.get_text_config().vocab_size
    return [torch.randint(0, vocab_size, (length,), generator=generator).tolist() for length in _LENGTHS]


@torch.inference_mode()
def _run_ordinary(model: Any, sequence: list[int]) -> torch.Tensor:
    output = model(input_ids=torch.tensor([sequence], device=model.device), use_cache=False)
    logits: torch.Tensor = output.logits[0]
    return logits


def _set_attention(model: Any, name: str) -> None:
    set_text_attention(model, name)
    if get_text_attention(model) != name:
        raise UnsupportedModelError("Its attention does not go through the transformers attention interface.")


class _Recorder:
    """The attention function of the recording pass: notes who calls it with what, and answers zeros."""

    def __init__(self) -> None:
        self.layers = PagedLayers(layer_of={}, shapes=[])

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        sliding_window: int | None = options.get("sliding_window")
        if module in self.layers.layer_of:
            raise UnsupportedModelError("It runs one attention layer several times in a forward pass.")
        if attention_mask is not None and (window := int(attention_mask.flatten()[0])) != (sliding_window or 0):
            raise UnsupportedModelError(
                f"A layer limits attention to {window or 'all'} tokens by its mask but says {sliding_window}."
            )
        self.layers.layer_of[module] = len(self.layers.shapes)
        self.layers.shapes.append(LayerShape(key.shape[1], key.shape[-1], value.shape[-1]))
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None

    @staticmethod
    def make_mask(batch_size: int, q_length: int, kv_length: int, local_size: int | None = None, **_: Any) -> Any:
        """Not a mask: a tensor full of the window size a mask would have, 0 for none, to read in `attend`."""
        return torch.full((batch_size, 1, q_length, kv_length), local_size or 0)


def _record_layers(model: Any, sequence: list[int]) -> PagedLayers:
    recorder = _Recorder()
    AttentionInterface.register(_RECORDING_ATTENTION, recorder.attend)
    AttentionMaskInterface.register(_RECORDING_ATTENTION, recorder.make_mask)
    _set_attention(model, _RECORDING_ATTENTION)
    _run_ordinary(model, sequence)
    num_layers = model.config.get_text_config().num_hidden_layers
    if len(recorder.layers.shapes) != num_layers:
        raise UnsupportedModelError(
            f"Only {len(recorder.layers.shapes)} of its {num_layers} layers are attention layers of the interface."
        )
    return recorder.layers


def run_paged(
    model: Any,
    layers: PagedLayers,
    sequences: list[list[int]],
    make_runner: Callable[[KVCache], ModelRunner] | None = None,
    plan: Plan = _PLAN,
) -> list[torch.Tensor]:
    """Logits [T, V] of every sequence, computed in passes that mix them, by another runner if one is given."""
    num_blocks = sum(-(-len(sequence) // _BLOCK_SIZE) for sequence in sequences)
    cache = KVCache(
        layers.shapes, num_blocks=num_blocks, block_size=_BLOCK_SIZE, dtype=model.dtype, device=model.device
    )
    runner = make_runner(cache) if make_runner is not None else ModelRunner(model, layers.layer_of, cache)
    requests = [_make_request(index, sequence) for index, sequence in enumerate(sequences)]
    free = iter(range(num_blocks - 1, -1, -1))  # descending: consecutive blocks must not be assumed
    for request in requests:
        request.block_ids = [next(free) for _ in range(-(-request.num_tokens // _BLOCK_SIZE))]
    logits: list[torch.Tensor] = [torch.empty(0)] * len(requests)
    for parts in plan:
        chunks = [Chunk(requests[index], num_tokens) for index, num_tokens in parts]
        batch = build_batch(chunks, _BLOCK_SIZE, model.device)
        num_tokens = len(batch.input_ids_T)
        # Backwards, so that a model that ignores `logits_to_keep` is found out.
        batch.logits_indices_R = torch.arange(num_tokens - 1, -1, -1, device=model.device)
        rows = iter(runner.forward(batch).flip(0).split([chunk.num_tokens for chunk in batch.chunks]))
        for chunk in batch.chunks:
            index = int(chunk.request.id)
            logits[index] = torch.cat([logits[index].to(model.device), next(rows)])
            chunk.request.num_computed_tokens += chunk.num_tokens
    return logits


@torch.inference_mode()
def run_once(model: Any, layers: PagedLayers, token_ids: list[int]) -> None:
    """One forward pass over a few tokens, at most a block of them, to see what the model calls."""
    cache = KVCache(layers.shapes, num_blocks=1, block_size=16, dtype=model.dtype, device=model.device)
    request = _make_request(0, token_ids)
    request.block_ids = [0]
    ModelRunner(model, layers.layer_of, cache).forward(build_batch([Chunk(request, len(token_ids))], 16, model.device))


def _extend(prompt: MediaPrompt) -> list[int]:
    """The prompt and a few tokens of text behind it."""
    return prompt.token_ids + prompt.token_ids[: prompt.media.spans[0].start][:_NUM_BEHIND]


@torch.inference_mode()
def _run_ordinary_media(model: Any, prompt: MediaPrompt) -> torch.Tensor:
    """Logits [T, V] from the prompt's last token on."""
    input_ids = torch.tensor([_extend(prompt)], device=model.device)
    tensors = to_tensors(prompt.media, model)
    num_behind = input_ids.shape[1] - len(prompt.token_ids)
    for name, tensor in tensors.items():
        if tensor.shape == (1, len(prompt.token_ids)):
            tensors[name] = torch.nn.functional.pad(tensor, (0, num_behind))
    output = model(input_ids=input_ids, use_cache=False, logits_to_keep=num_behind + 1, **tensors)
    logits: torch.Tensor = output.logits[0, -num_behind - 1 :]
    return logits


def _run_paged_media(model: Any, layers: PagedLayers, prompt: MediaPrompt) -> torch.Tensor:
    """The same rows: the prompt whole, then tokens behind it as a chunk and as a decode."""
    request = _make_request(0, _extend(prompt))
    num_blocks = -(-request.num_tokens // _BLOCK_SIZE)
    cache = KVCache(
        layers.shapes, num_blocks=num_blocks, block_size=_BLOCK_SIZE, dtype=model.dtype, device=model.device
    )
    request.block_ids = list(range(num_blocks - 1, -1, -1))
    whole = MediaRunner(model, layers.layer_of, cache)
    request.prompt_token_ids, request.output_token_ids = prompt.token_ids, _extend(prompt)[len(prompt.token_ids) :]
    request.media = prompt.media
    whole.place(request)
    rows = []
    for num_tokens in (len(prompt.token_ids), len(request.output_token_ids) - 1, 1):
        batch = build_batch([Chunk(request, num_tokens)], _BLOCK_SIZE, model.device)
        first = num_tokens - 1 if request.has_pending_media else 0
        batch.logits_indices_R = torch.arange(first, num_tokens, device=model.device)
        runner = whole if request.has_pending_media else ModelRunner(model, layers.layer_of, cache)
        rows.append(runner.forward(batch))
        request.num_computed_tokens += num_tokens
    return torch.cat(rows)


def _make_request(index: int, sequence: list[int]) -> Request:
    return Request(id=str(index), prompt_token_ids=sequence, sampling=Sampling(seed=0), max_tokens=1)


def compare_logits(expected_TV: torch.Tensor, actual_TV: torch.Tensor, what: str = "in packed sequences") -> None:
    """Rounding differs a little, and in half precision a router may flip: so nine rows of ten must agree.

    Raises UnsupportedModelError.
    """
    tolerance = 1e-3 if expected_TV.dtype == torch.float32 else 0.08
    if expected_TV.shape != actual_TV.shape:
        raise UnsupportedModelError("It does not return the logits of the positions it is asked for.")
    expected_TV, actual_TV = expected_TV.float(), actual_TV.float()
    error_T = (actual_TV - expected_TV).norm(dim=-1) / expected_TV.norm(dim=-1).clamp_min(1e-6)
    error = float(error_T.quantile(0.9))
    if not error <= tolerance:
        raise UnsupportedModelError(f"Its logits {what} differ from the ordinary ones by {error:.1%}.")
