"""Chooses and sizes the engine of a loaded model."""

import logging
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import psutil
import torch

from gpu_worker.engine.acceleration import Acceleration, accelerate
from gpu_worker.engine.block_manager import BlockManager
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.invariant import build_invariant_runner
from gpu_worker.engine.kv_cache import KVCache, LayerShape
from gpu_worker.engine.lora import AdapterTargets, find_targets
from gpu_worker.engine.media import MediaPrompt
from gpu_worker.engine.media_runner import MediaRunner
from gpu_worker.engine.model_runner import ModelRunner
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.probe import PagedLayers, UnsupportedModelError, make_sequences, probe_paged, run_once
from gpu_worker.engine.sampler import Sampler
from gpu_worker.engine.scheduler import Scheduler
from gpu_worker.engine.speculation import Drafter
from gpu_worker.protocol import WorkerConfig, find_paged_demand

logger = logging.getLogger(__name__)

# Context of models that state none (ALiBi, state spaces).
_DEFAULT_MAX_MODEL_LEN = 32_768
# The cache's part of the memory that is free once the weights are loaded. A host also runs other processes.
_CPU_MEMORY_SHARE = 0.25
_GPU_MEMORY_SHARE = 0.85


class BuiltEngine(NamedTuple):
    """An engine, what adapters may change, which kind it is, why it is the fallback (a sentence; empty for paged), and
    its blocks."""

    engine: PagedEngine | FallbackEngine
    targets: AdapterTargets
    kind: Literal["paged", "fallback"]
    reason: str
    num_blocks: int
    block_size: int
    acceleration: Acceleration | None = None  # None: off, or not possible here


def build_engine(model: Any, config: WorkerConfig, media_prompt: MediaPrompt | None = None) -> BuiltEngine:
    """Build the paged engine if the probe allows and the configuration does not forbid it, else the fallback.

    Runs the model, with `media_prompt` if it takes pictures; to be called in the engine thread. Raises ValueError when
    `engine` is "paged" and the model cannot be, when `compile` is "on" and its steps cannot be compiled, when a
    setting needs the paged engine, when a size in the configuration is impossible, or when no memory is left for the
    cache.
    """
    max_model_len = find_max_model_len(model.config.get_text_config(), config.max_model_len)
    reason = "The configuration asks for it."
    if config.engine != "fallback":
        try:
            return _build_paged(model, probe_paged(model, media_prompt), config, max_model_len)
        except UnsupportedModelError as error:
            reason = str(error)
        if config.engine == "paged":
            raise ValueError(f"engine is set to paged, but this model cannot be served paged. {reason}")
    if (demand := find_paged_demand(config)) is not None:
        raise ValueError(f"{demand}, but this model is served by the fallback engine. {reason}")
    logger.info("using the fallback engine: %s", reason)
    engine = FallbackEngine(model, max_model_len=max_model_len, max_num_seqs=config.max_num_seqs)
    return BuiltEngine(engine, find_targets(model), "fallback", reason, num_blocks=config.max_num_seqs, block_size=0)


def find_max_model_len(text_config: Any, wanted: int | None) -> int:
    """The context to serve: what is wanted, at most what the model was made for. Raises ValueError."""
    own = getattr(text_config, "max_position_embeddings", None)
    if wanted is not None and wanted < 1:
        raise ValueError(f"max_model_len must be positive, not {wanted}")
    if wanted is not None and own is not None and wanted > own:
        raise ValueError(f"max_model_len is {wanted}, but the model has only {own} positions")
    return wanted or own or _DEFAULT_MAX_MODEL_LEN


def _build_paged(model: Any, layers: PagedLayers, config: WorkerConfig, max_model_len: int) -> BuiltEngine:
    num_blocks = _count_blocks(layers.shapes, model.dtype, model.device, config, max_model_len)
    capacity = num_blocks * config.block_size
    if capacity < max_model_len:
        logger.warning("the KV cache holds %d tokens: max_model_len is lowered from %d", capacity, max_model_len)
        max_model_len = capacity
    cache = KVCache(
        layers.shapes, num_blocks=num_blocks, block_size=config.block_size, dtype=model.dtype, device=model.device
    )
    scheduler = Scheduler(
        BlockManager(num_blocks, config.block_size, prefix_cache=config.prefix_cache),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        drafter=_make_drafter(config, max_model_len),
    )
    targets = _find_paged_targets(model, layers)
    acceleration = None
    if config.batch_invariant:
        runner: ModelRunner = build_invariant_runner(model, layers, cache, config)
        targets = replace(targets, obstacle="The model is served in batch-invariant mode, which adapters would break.")
    else:
        runner = ModelRunner(model, layers.layer_of, cache)
        acceleration = accelerate(model, layers, runner, config)
    engine = PagedEngine(
        runner,
        scheduler,
        MediaRunner(model, layers.layer_of, cache),
        max_model_len=max_model_len,
        sampler=Sampler(one_by_one=config.batch_invariant),
    )
    return BuiltEngine(engine, targets, "paged", "", num_blocks, config.block_size, acceleration)


def _find_paged_targets(model: Any, layers: PagedLayers) -> AdapterTargets:
    """Seen while the linear layers are still the model's own."""
    token_ids = make_sequences(model)[0][:13]
    names = tuple(name for name, module in model.named_modules() if module in layers.layer_of)
    return find_targets(model, lambda: run_once(model, layers, token_ids), len(token_ids), names)


def _make_drafter(config: WorkerConfig, max_model_len: int) -> Drafter | None:
    if config.num_speculative_tokens < 1:
        raise ValueError(f"num_speculative_tokens must be positive, not {config.num_speculative_tokens}")
    if config.speculation == "off":
        return None
    return Drafter(config.speculation, config.num_speculative_tokens, max_model_len)


def _count_blocks(
    shapes: list[LayerShape], dtype: torch.dtype, device: torch.device, config: WorkerConfig, max_model_len: int
) -> int:
    """As configured, else what memory allows, but never more than all sequences at full length could fill."""
    if config.num_blocks is not None:
        return config.num_blocks
    budget_bytes = config.kv_cache_bytes or _measure_free_bytes(device)
    block_bytes = sum(shape.num_elements for shape in shapes) * dtype.itemsize * config.block_size
    most = config.max_num_seqs * -(-max_model_len // config.block_size)
    num_blocks = min(budget_bytes // block_bytes, most)
    if num_blocks < 1:
        raise ValueError(
            f"no memory is left for the KV cache: a block needs {block_bytes} bytes, {budget_bytes} are free"
        )
    return int(num_blocks)


def _measure_free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes * _GPU_MEMORY_SHARE)
    return int(psutil.virtual_memory().available * _CPU_MEMORY_SHARE)
