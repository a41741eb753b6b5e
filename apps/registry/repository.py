"""Reads the code of a model's repository on this machine, for commands that approve it. Runs and stores nothing."""

from pathlib import Path

from gpu_worker.protocol import RepositoryCode, read_code, split_source


class RepositoryError(Exception):
    """The code cannot be read; the message is for the person at the terminal."""


def fetch_code(source: str, revision: str) -> RepositoryCode:
    """The code of a folder as it is, or of a hub id's revision, downloaded if need be. Blocking.

    Raises RepositoryError.
    """
    if split_source(source).gguf_file:
        return RepositoryCode("", [])  # such a file holds none, and nothing beside it is read
    folder = Path(source).expanduser()
    try:
        return read_code(folder if folder.is_dir() else _download(source, revision))
    except (OSError, ValueError) as error:  # those of the hub are either
        text = str(error).splitlines()
        raise RepositoryError(
            f"The code of {source} cannot be read on this machine: {text[0] if text else type(error).__name__}"
        ) from error


def _download(source: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, revision=revision or None, allow_patterns=["*.py"]))
