"""Loads a model and its tokenizer from a folder or the hub. It knows no engine and no request.

To be called in the engine thread: reading weights runs parallel operators, and one thread of the process must run
them all (see `gpu_worker.engine.core`).
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from gpu_worker.load_error import LoadError
from gpu_worker.processor import ProcessorError, load_processor, takes_pictures
from gpu_worker.protocol import WorkerConfig, find_commit
from gpu_worker.remote_code import check_parts, make_unapproved_error, pin_code

logger = logging.getLogger(__name__)

# Called in the engine thread: the part that is done, 0 to 1, and what is being done.
OnProgress = Callable[[float, str], None]

# Names that documents of other servers give to paged attention. Ours needs no name: the probe decides.
_PAGED_ALIASES = {"sdpa_paged", "paged_attention", "eager_paged", "paged|sdpa", "paged|eager"}
_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_CONFIG_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "*_Dense/pytorch_model.bin"]
_DTYPES = {"auto": "auto", "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# How far the bar is when a stage begins: downloading, then reading weights.
_DOWNLOADED, _READ = 0.6, 0.95


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
    processor: Any = None  # of a model that takes pictures


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
    )


def find_folder(config: WorkerConfig, on_progress: OnProgress) -> Path:
    """The model's files on this machine, downloaded if need be, its own code checked. Raises LoadError."""
    on_progress(0.0, "resolving")
    folder = pin_code(_find_folder(config, on_progress), config)
    on_progress(_DOWNLOADED, "reading weights")
    return folder


def read_model(folder: Path, config: WorkerConfig, on_progress: OnProgress, auto_class: Any) -> tuple[Any, Any]:
    """Tokenizer and model, by one of transformers' automatic classes. Raises LoadError.

    Sets this thread's number of torch threads.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = _choose_device(config.device)
    check_parts(folder, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=config.runs_own_code)
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


def _find_folder(config: WorkerConfig, on_progress: OnProgress) -> Path:
    """A local folder as it is, or the downloaded snapshot of a hub id."""
    path = Path(config.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise LoadError(f"The folder {config.model} has no config.json.")
        return path
    if config.model.startswith((".", "/", "~")) or config.model.count("/") > 1:
        raise LoadError(f"There is no folder {config.model}.")
    where = f"{config.model}@{config.revision}" if config.revision else config.model
    try:
        folder = _download(config, [*_CONFIG_FILES, "*.safetensors"], on_progress)
        if not any(folder.glob("*.safetensors")):
            folder = _download(config, [*_CONFIG_FILES, "pytorch_model*.bin", "*/pytorch_model.bin"], on_progress)
        return folder
    except GatedRepoError as error:
        raise LoadError(f"{where} is gated: accept its terms on the hub and set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise LoadError(f"The hub has no model {where}, or it is private and HF_TOKEN does not open it.") from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{config.model} has no revision {config.revision}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise LoadError(f"{where} is not on this machine and the hub cannot be reached.") from error
    except HFValidationError as error:
        raise LoadError(f"{config.model!r} is neither a folder nor a hub id.") from error
    except (HfHubHTTPError, OSError) as error:
        raise LoadError(f"Downloading {where} failed: {error}") from error


def _download(config: WorkerConfig, patterns: list[str], on_progress: OnProgress) -> Path:
    done = 0.0  # the hub shows bytes received and bytes written; the one that is ahead counts

    class DownloadBar(tqdm):
        """Reports bytes instead of drawing them."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            # A disabled bar does not count; `total` grows as the hub tells the sizes of files.
            nonlocal done
            self.n += n or 0
            if self._counts_bytes and self.total:
                done = max(done, min(self.n / self.total, 1.0))
                on_progress(_DOWNLOADED * done, "downloading")

    return Path(
        snapshot_download(
            config.model,
            revision=config.revision,
            allow_patterns=patterns,
            local_files_only=config.local_files_only,
            tqdm_class=DownloadBar,
        )
    )


def _read_weights(
    folder: Path, config: WorkerConfig, device: torch.device, on_progress: OnProgress, auto_class: Any
) -> Any:
    if config.dtype not in _DTYPES:
        raise LoadError(f"The dtype must be one of {', '.join(_DTYPES)}, not {config.dtype}.")
    options: dict[str, Any] = {"dtype": _DTYPES[config.dtype], "trust_remote_code": config.runs_own_code}
    if config.attn_implementation and config.attn_implementation not in _PAGED_ALIASES:
        options["attn_implementation"] = config.attn_implementation
    if config.quantization is not None:
        options["quantization_config"] = _make_quantization(config.quantization)
    if config.quantization is not None or device.type != "cpu":
        options["device_map"] = {"": device}

    def follow_bar(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        iterable = args[0] if args else kwargs.get("iterable")
        if kwargs.get("desc") != "Loading weights" or iterable is None:
            return factory(*args, **kwargs)
        return _follow(list(iterable), on_progress)

    previous_hook = transformers_logging.set_tqdm_hook(follow_bar)
    try:
        model = auto_class.from_pretrained(folder, **options)
    finally:
        transformers_logging.set_tqdm_hook(previous_hook)
    return model.eval()


def _choose_class(folder: Path, config: WorkerConfig) -> Any:
    try:
        model_config = AutoConfig.from_pretrained(folder, trust_remote_code=config.runs_own_code)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError):
        return AutoModelForCausalLM  # which fails in the same way, where the reason is told
    return AutoModelForImageTextToText if takes_pictures(model_config) else AutoModelForCausalLM


def _read_processor(folder: Path, config: WorkerConfig, model: Any, tokenizer: Any) -> Any:
    """None for a model of text, or where the processor cannot be had: the model then serves text."""
    if not takes_pictures(model.config):
        return None
    try:
        processor = load_processor(folder, trust_remote_code=config.runs_own_code)
    except ProcessorError as error:
        if _needs_own_code(error):
            raise make_unapproved_error(folder, config) from error
        logger.warning("the model is served without pictures. %s", error)
        return None
    if processor.chat_template:  # older repositories have it nowhere else
        tokenizer.chat_template = processor.chat_template
    return processor


def _follow(items: list[Any], on_progress: OnProgress) -> Any:
    """Yield the items, reporting about every hundredth part."""
    every = max(1, len(items) // 100)
    for index, item in enumerate(items):
        if index % every == 0:
            on_progress(_DOWNLOADED + (_READ - _DOWNLOADED) * index / len(items), "reading weights")
        yield item


def _make_quantization(name: str) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise LoadError(f"Quantization {name} needs the package bitsandbytes, which is not installed.")
    if name == "bnb-4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    return BitsAndBytesConfig(load_in_8bit=True)


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
