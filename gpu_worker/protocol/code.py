"""The Python code in a model's repository, as both halves name it: its files, and one SHA-256 over them. Runs none."""

import hashlib
from pathlib import Path

import msgspec

_LINE_START = "unapproved code: "


class CodeFile(msgspec.Struct, frozen=True):
    """One file, by its path below the repository's root."""

    path: str
    sha256: str
    num_bytes: int


class RepositoryCode(msgspec.Struct, frozen=True):
    """All `.py` files of a repository at one moment. `sha256` changes with any content, path, or number of them."""

    sha256: str
    files: list[CodeFile]
    commit: str = ""  # of the hub; empty for a folder


def read_code(folder: Path) -> RepositoryCode:
    """What is there now, wherever below the folder. Blocking. Raises OSError."""
    files = [_read_file(folder, path) for path in sorted(folder.rglob("*.py")) if path.is_file()]
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return RepositoryCode(hashlib.sha256(lines.encode()).hexdigest(), files, find_commit(folder))


def find_commit(folder: Path) -> str:
    """The commit of a snapshot in the hub's cache; empty for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else ""


def write_code_line(code: RepositoryCode) -> str:
    """For the worker's log, where who missed its last words on /health finds them."""
    return f"{_LINE_START}{msgspec.json.encode(code).decode()}\n"


def find_code_line(log: str) -> RepositoryCode | None:
    """What the last such line says."""
    for line in reversed(log.splitlines()):
        if line.startswith(_LINE_START):
            try:
                return msgspec.json.decode(line.removeprefix(_LINE_START), type=RepositoryCode)
            except msgspec.MsgspecError:
                return None
    return None


def _read_file(folder: Path, path: Path) -> CodeFile:
    content = path.read_bytes()
    return CodeFile(path.relative_to(folder).as_posix(), hashlib.sha256(content).hexdigest(), len(content))
