"""Loads everything a worker serves. Runs in the engine thread, the only one that may touch torch.

The imports are inside the function on purpose: the server answers before torch is imported.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gpu_worker.engine.base import Engine
from gpu_worker.frontend.media import MediaReader
from gpu_worker.frontend.parsers import ParserNames
from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import ModelInfo, WorkerConfig, find_paged_demand
from gpu_worker.server.adapters import Reader
from gpu_worker.server.submissions import Frontend as AnyFrontend
from gpu_worker.tasks.detect import detect_task

logger = logging.getLogger(__name__)

# Part done, 0 to 1, and what is being done.
OnProgress = Callable[[float, str], None]


class Acceleration(Protocol):
    """What makes the engine faster while it serves: see `gpu_worker.engine.acceleration`."""

    def prepare(self) -> None:
        """Blocking, in any thread but the engine's and the event loop's."""

    def take_up(self) -> None:
        """In the engine thread."""

    def cancel(self) -> None:
        """End `prepare`, from any thread."""


class ServedModel(NamedTuple):
    """An engine, the text side of its model, and what the worker says of both."""

    engine: Engine
    frontend: AnyFrontend
    info: ModelInfo
    acceleration: Acceleration | None = None
    adapters: Reader | None = None  # None: for a task that has none


def load_served_model(config: WorkerConfig, on_progress: OnProgress) -> ServedModel:
    """Blocking, for seconds to minutes. Raises whatever goes wrong; see `explain_failure`."""
    on_progress(0.0, "importing")
    from gpu_worker.loader import find_folder

    folder = find_folder(config, on_progress)
    task = detect_task(folder)
    if task != "generate" and (demand := find_paged_demand(config)) is not None:
        raise ValueError(f"{demand}, but this model is for the task {task}: that is for generation only")
    if task in ("embed", "score"):
        from gpu_worker.tasks.pooling.load import load_pooling

        return ServedModel(*load_pooling(config, folder, task, on_progress))
    if task == "transcribe":
        from gpu_worker.tasks.transcription.load import load_transcription

        return ServedModel(*load_transcription(config, folder, on_progress))
    return _load_generating(config, folder, on_progress)


def _load_generating(config: WorkerConfig, folder: Path, on_progress: OnProgress) -> ServedModel:
    from gpu_worker.adapters.files import AdapterReader
    from gpu_worker.engine.build import build_engine
    from gpu_worker.loader import load_model

    loaded = load_model(config, on_progress, folder)
    reader = _make_media_reader(loaded.processor, loaded.tokenizer)
    built = build_engine(loaded.model, config, reader.sample if reader is not None else None)
    limits = Limits(
        max_model_len=built.engine.max_model_len, vocab_size=loaded.vocab_size, eos_token_ids=loaded.eos_token_ids
    )
    frontend = Frontend(
        loaded.tokenizer,
        limits,
        config.chat_template,
        reader,
        ParserNames(config.tool_call_parser, config.reasoning_parser),
    )
    info = ModelInfo(
        architecture=loaded.architecture,
        engine=built.kind,
        dtype=loaded.dtype,
        device=loaded.device,
        max_model_len=limits.max_model_len,
        vocab_size=limits.vocab_size,
        num_blocks=built.num_blocks,
        block_size=built.block_size,
        has_chat_template=bool(frontend.template.source),
        supports_tools=frontend.template.tool_call_parser is not None,
        supports_reasoning=frontend.template.reasoning_parser is not None,
        eos_token_ids=sorted(limits.eos_token_ids),
        generation_defaults=loaded.generation_defaults,
        engine_reason=built.reason,
        revision=loaded.revision,
        supports_images="image" in frontend.template.takes,
        quantization=loaded.quantization,
        compile_obstacle=_find_compile_obstacle(loaded.model, built, config),
        supports_audio="audio" in frontend.template.takes,
    )
    adapters = AdapterReader(built.targets, local_files_only=config.local_files_only)
    return ServedModel(built.engine, frontend, info, built.acceleration, adapters)


def _find_compile_obstacle(model: Any, built: Any, config: WorkerConfig) -> str:
    """A sentence; empty where steps are compiled, or were not to be."""
    from gpu_worker.engine.acceleration import find_obstacle

    if config.compile == "off" or built.kind != "paged" or built.acceleration is not None:
        return ""
    return find_obstacle(model)


def _make_media_reader(processor: Any, tokenizer: Any) -> MediaReader | None:
    """None for a model that takes text only, or whose processor is not of the usual kind."""
    if processor is None:
        return None
    try:
        return MediaReader(processor, TextTokenizer(tokenizer))
    except ValueError as error:
        logger.warning("the model is served for text alone: %s", error)
        return None


def explain_failure(error: BaseException) -> str:
    """One line for the operator. The log has the traceback."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
