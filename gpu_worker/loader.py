"""Loads a model and its tokenizer from where `locate` has found them. It knows no engine and no request.

To be called in the engine thread: reading weights runs parallel operators, and one thread of the process must run
them all (see `gpu_worker.engine.core`).
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from gpu_worker import gguf
from gpu_worker.file_pages import MappedFiles
from gpu_worker.load_error import LoadError
from gpu_worker.locate import DOWNLOADED, OnProgress, find_folder
from gpu_worker.processor import ProcessorError, load_processor, takes_pictures, takes_recordings
from gpu_worker.protocol import WorkerConfig, find_commit, split_source
from gpu_worker.quantization import check_quantization, describe_quantization, make_load_options, quantize
from gpu_worker.remote_code import check_parts, make_unapproved_error

logger = logging.getLogger(__name__)

# Names that documents of other servers give to paged attention. Ours needs no name: the probe decides.
_PAGED_ALIASES = {"sdpa_paged", "paged_attention", "eager_paged", "paged|sdpa", "paged|eager"}
_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_DTYPES = {"auto": "auto", "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_READ = 0.95  # how far the bar is when weights are read


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what its files say of it."""

    model: Any
    tokenizer: Any
    architecture: str
    dtype: str
    device: str
    revision: str  # the hub commit; empty for a folder
    vocab_size: int
    eos_token_ids: frozenset[int]
    generation_defaults: dict[str, float | int]  # those fields of `Sampling` that generation_config.json names
    processor: Any = None  # of a model that takes more than text
    quantization: str = ""


def load_model(config: WorkerConfig, on_progress: OnProgress, folder: Path | None = None) -> LoadedModel:
    """Read everything, from `folder` where `find_folder` was asked already. Raises LoadError.

    Sets this thread's number of torch threads.
    """
    folder = folder or find_folder(config, on_progress)
    tokenizer, model = read_model(folder, config, on_progress, _choose_class(folder, config))
    processor = _read_processor(folder, config, model, tokenizer)
    generation = _read_generation_config(folder, model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        architecture=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        revision=find_commit(folder),
        vocab_size=model.config.get_text_config().vocab_size,
        eos_token_ids=_find_eos(generation, model.config, tokenizer),
        generation_defaults=_find_defaults(generation),
        processor=processor,
        quantization=describe_quantization(model),
    )


def read_model(folder: Path, config: WorkerConfig, on_progress: OnProgress, auto_class: Any) -> tuple[Any, Any]:
    """Tokenizer and model, by one of transformers' automatic classes. Raises LoadError.

    Sets this thread's number of torch threads.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = _choose_device(config.device)
    check_parts(folder, config)
    check_quantization(folder, config, device)
    try:
        gguf_path = _find_gguf(folder, config)
        named = {"gguf_file": gguf_path.name} if gguf_path else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.runs_own_code, **named)
        model = _read_weights(folder, config, device, on_progress, auto_class)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, UnpicklingError) as error:
        raise make_load_error(error, config, folder) from error
    on_progress(_READ, "checking")
    return tokenizer, model


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LoadError(f"There is no device called {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LoadError(f"The device is {name}, but this machine has no CUDA device that torch can use.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LoadError("The device is mps, but this machine has none.")
    return device


def _read_weights(
    folder: Path, config: WorkerConfig, device: torch.device, on_progress: OnProgress, auto_class: Any
) -> Any:
    if config.dtype not in _DTYPES:
        raise LoadError(f"The dtype must be one of {', '.join(_DTYPES)}, not {config.dtype}.")
    options: dict[str, Any] = {"dtype": _DTYPES[config.dtype], "trust_remote_code": config.runs_own_code}
    if "/" in (config.attn_implementation or ""):
        raise LoadError(f"The attention {config.attn_implementation} is code from a hub, which nobody has approved.")
    if config.attn_implementation and config.attn_implementation not in _PAGED_ALIASES:
        options["attn_implementation"] = config.attn_implementation
    options |= make_load_options(config.quantization, _DTYPES[config.dtype], folder, device)
    if "quantization_config" in options or device.type != "cpu":
        options["device_map"] = {"": device}
    if gguf_path := _find_gguf(folder, config):
        options |= gguf.make_load_options(gguf_path, _DTYPES[config.dtype])

    def follow_bar(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        iterable = args[0] if args else kwargs.get("iterable")
        if kwargs.get("desc") != "Loading weights" or iterable is None:
            return factory(*args, **kwargs)
        return _follow(list(iterable), on_progress)

    previous_hook = transformers_logging.set_tqdm_hook(follow_bar)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You passed `quantization_config`")  # to say how, not what
            model, info = auto_class.from_pretrained(folder, output_loading_info=True, **options)
    finally:
        transformers_logging.set_tqdm_hook(previous_hook)
    if gguf_path:
        gguf.check_loading(info, config.model)
        model.generation_config = gguf.make_generation_config(gguf_path)
    quantize(model, config)
    MappedFiles().release()
    return model.eval()


def _find_gguf(folder: Path, config: WorkerConfig) -> Path | None:
    """The one file that the model is read from, where it is such a file."""
    name = split_source(config.model).gguf_file
    return folder / Path(name).name if name else None


def _choose_class(folder: Path, config: WorkerConfig) -> Any:
    if _find_gguf(folder, config):
        return AutoModelForCausalLM
    try:
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=config.runs_own_code)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError):
        return AutoModelForCausalLM  # which fails in the same way, where the reason is told
    if takes_pictures(model_config):
        return AutoModelForImageTextToText
    return AutoModelForMultimodalLM if takes_recordings(model_config) else AutoModelForCausalLM


def _read_processor(folder: Path, config: WorkerConfig, model: Any, tokenizer: Any) -> Any:
    """None for a model of text, or where the processor cannot be had: the model then serves text."""
    if not takes_pictures(model.config) and not takes_recordings(model.config):
        return None
    try:
        processor = load_processor(folder, trust_remote_code=config.runs_own_code)
    except ProcessorError as error:
        if _needs_own_code(error):
            raise make_unapproved_error(folder, config) from error
        logger.warning("the model is served for text alone. %s", error)
        return None
    if processor.chat_template:  # older repositories have it nowhere else
        tokenizer.chat_template = processor.chat_template
    return processor


def _follow(items: list[Any], on_progress: OnProgress) -> Any:
    """Yield the items, reporting about every hundredth part."""
    every, files = max(1, len(items) // 100), MappedFiles()
    for index, item in enumerate(items):
        if index % every == 0:
            files.release()  # of what was converted on the way, which is read no more
            on_progress(DOWNLOADED + (_READ - DOWNLOADED) * index / len(items), "reading weights")
        yield item


def make_load_error(error: Exception, config: WorkerConfig, folder: Path) -> LoadError:
    """What to raise for what transformers raised: a sentence where it says a page."""
    if _needs_own_code(error) and not config.runs_own_code:
        return make_unapproved_error(folder, config)
    return LoadError(_explain_load_error(error, config))


def _needs_own_code(error: Exception) -> bool:
    return "trust_remote_code" in str(error)


def _explain_load_error(error: Exception, config: WorkerConfig) -> str:
    text = str(error)
    if isinstance(error, UnpicklingError):
        return f"{config.model} has weights in a pickle that holds more than tensors, which is never run."
    if "Unrecognized configuration class" in text:
        return f"{config.model} is no model of a kind that can be served."
    if "safetensors" in text or "no file named" in text:
        return f"{config.model} has no weights that can be read: {text.splitlines()[0]}"
    return f"{config.model} cannot be loaded: {text.splitlines()[0] if text else type(error).__name__}"


def _read_generation_config(folder: Path, model: Any) -> GenerationConfig:
    """The file's own, since a model object fills gaps with defaults of the library."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    config: GenerationConfig = model.generation_config
    return config


def _find_eos(generation: GenerationConfig, config: Any, tokenizer: Any) -> frozenset[int]:
    for source in (generation, config.get_text_config(), tokenizer):
        token_ids = getattr(source, "eos_token_id", None)
        if token_ids is not None:
            return frozenset([token_ids] if isinstance(token_ids, int) else token_ids)
    return frozenset()


def _find_defaults(generation: GenerationConfig) -> dict[str, float | int]:
    named = generation.to_diff_dict()
    return {name: named[name] for name in _SAMPLING_DEFAULTS if named.get(name) is not None}
