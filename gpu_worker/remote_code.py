"""The Python code that a model's repository brings: it runs only if its SHA-256 was approved. It knows no hub.

Approved code is copied, and the copy is what is hashed and run: whoever changes the folder afterwards changes nothing.
References from configurations to code elsewhere (another repository, a path outside) are refused, since no approval
covers it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers

from gpu_worker.load_error import LoadError, UnapprovedCodeError
from gpu_worker.private_folder import make_private_folder
from gpu_worker.protocol import RepositoryCode, WorkerConfig, find_commit, read_code

_REFERENCE = re.compile(r"(?!.*--)[\w-]+(/[\w-]+)*\.\w+")  # a class of a file of this very repository
_COPIED = (".py", ".json")
# Beside config.json, whose own classes transformers does not replace.
_PARTS = (
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
_NUM_NAMED = 3


def pin_code(folder: Path, config: WorkerConfig) -> Path:
    """Where to load from: the folder itself, or, with an approval, a private copy of its code and configuration.

    Raises UnapprovedCodeError where the code is another than the approved one, LoadError where code lies elsewhere.
    """
    if config.approved_code is None:
        return folder
    copy = _copy(folder.resolve() if not folder.name else folder)
    code = read_code(copy)
    if code.sha256 != config.approved_code:
        raise UnapprovedCodeError(
            f"The code of {config.model} is not the code that was approved ({_describe(code)}): an administrator must "
            "approve it anew.",
            code,
        )
    for reference in _find_references(copy):
        if not _REFERENCE.fullmatch(reference):
            raise LoadError(
                f"{config.model} asks for code from elsewhere ({reference}), which no approval covers: put the code "
                "into the repository itself."
            )
    return copy


def make_unapproved_error(folder: Path, config: WorkerConfig) -> UnapprovedCodeError:
    """For a repository that cannot be loaded without its code, and has no approval."""
    code = read_code(folder)
    return UnapprovedCodeError(
        f"{config.model} brings its own code ({_describe(code)}), which runs only when an administrator has approved "
        "it.",
        code,
    )


def check_parts(folder: Path, config: WorkerConfig) -> None:
    """Raises UnapprovedCodeError where tokenizer or processor are classes of the repository's own.

    transformers would take its own in their place without a word, and every prompt would be read wrongly.
    """
    if config.approved_code is not None:
        return
    for name in _PARTS:
        for reference in _walk(_read_json(folder / name).get("auto_map"), is_map=True):
            own = reference.rpartition(".")[2].removesuffix("Fast")
            if not {own, f"{own}Fast"} & set(dir(transformers)):
                raise make_unapproved_error(folder, config)


def _copy(folder: Path) -> Path:
    """Code and configuration as files of our own, links to the rest. Folders that are links are left out."""
    target = make_private_folder() / ("snapshots" if find_commit(folder) else "folder") / folder.name
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in _COPIED:
            shutil.copyfile(path, place)
        else:
            place.symlink_to(path.resolve())
    return target


def _find_references(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*config.json")):
        yield from _walk(_read_json(path), is_map=False)


def _walk(value: Any, *, is_map: bool) -> Iterator[str]:
    """All texts below any `auto_map`, however deep."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _walk(below, is_map=is_map or name == "auto_map")
    elif isinstance(value, list):
        for below in value:
            yield from _walk(below, is_map=is_map)
    elif is_map and isinstance(value, str):
        yield value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # whoever reads the file for what is in it says what is wrong
        return {}
    return content if isinstance(content, dict) else {}


def _describe(code: RepositoryCode) -> str:
    names = [file.path for file in code.files[:_NUM_NAMED]]
    if (num_more := len(code.files) - len(names)) > 0:
        names.append(f"{num_more} more")
    commit = f", commit {code.commit}" if code.commit else ""
    return f"{', '.join(names) or 'no files'}; SHA-256 {code.sha256}{commit}"
