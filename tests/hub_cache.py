"""A hub's cache on this machine, so that hub ids can be loaded without a hub."""

from pathlib import Path

import pytest


def use_hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From now on this process looks for hub ids in `folder`, and nowhere else."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def add_snapshot(cache: Path, repository: str, commit: str, *, branch: str = "main") -> Path:
    """An empty snapshot to be filled, to which the branch points from now on."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / branch).write_text(commit)
    return snapshot
