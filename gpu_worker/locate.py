"""Finds a model's files on this machine, or brings them from the hub. Reads no weights.

What is returned is what may be loaded: the repository's own code in it was approved, a GGUF file is alone in it.
"""

from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.utils import tqdm

from gpu_worker import gguf
from gpu_worker.hub import HubError, explain_hub_errors
from gpu_worker.load_error import LoadError
from gpu_worker.protocol import Source, WorkerConfig, split_source
from gpu_worker.remote_code import pin_code

# Called in the engine thread: the part that is done, 0 to 1, and what is being done.
OnProgress = Callable[[float, str], None]

DOWNLOADED = 0.6  # how far the bar is when everything is here
_CONFIG_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "*_Dense/pytorch_model.bin"]


def find_folder(config: WorkerConfig, on_progress: OnProgress) -> Path:
    """The model's files on this machine, downloaded if need be. Raises LoadError."""
    on_progress(0.0, "resolving")
    source = split_source(config.model)
    if not source.is_sound:
        raise LoadError(f"{config.model} names no file of {source.place}.")
    folder = _find_folder(config, source, on_progress)
    folder = gguf.isolate(folder, source.gguf_file, config.model) if source.gguf_file else pin_code(folder, config)
    on_progress(DOWNLOADED, "reading weights")
    return folder


def _find_folder(config: WorkerConfig, source: Source, on_progress: OnProgress) -> Path:
    """A local folder as it is, or the downloaded snapshot of a hub id."""
    path = Path(source.place).expanduser()
    if path.is_dir():
        if not source.gguf_file and not (path / "config.json").is_file():
            raise LoadError(f"The folder {config.model} has no config.json.")
        return path
    if source.place.startswith((".", "/", "~")) or source.place.count("/") > 1:
        raise LoadError(f"There is no folder {source.place}.")
    try:
        with explain_hub_errors(source.place, config.revision):
            return _download_what_is_needed(config, source, on_progress)
    except HubError as error:
        raise LoadError(str(error)) from error


def _download_what_is_needed(config: WorkerConfig, source: Source, on_progress: OnProgress) -> Path:
    """Of a repository of GGUF files, which holds the model many times, the one file."""
    if source.gguf_file:
        return _download(config, source, [escape(source.gguf_file)], on_progress)
    folder = _download(config, source, [*_CONFIG_FILES, "*.safetensors"], on_progress)
    if not any(folder.glob("*.safetensors")):
        folder = _download(config, source, [*_CONFIG_FILES, "pytorch_model*.bin", "*/pytorch_model.bin"], on_progress)
    return folder


def _download(config: WorkerConfig, source: Source, patterns: list[str], on_progress: OnProgress) -> Path:
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
                on_progress(DOWNLOADED * done, "downloading")

    return Path(
        snapshot_download(
            source.place,
            revision=config.revision,
            allow_patterns=patterns,
            local_files_only=config.local_files_only,
            tqdm_class=DownloadBar,
        )
    )
