"""Hub ids, from the cache of a machine without a hub: commits are pinned, files of repositories are found."""

from pathlib import Path
from typing import Any

import pytest

from apps.registry.repository import fetch_code
from gpu_worker.load_error import LoadError, UnapprovedCodeError
from gpu_worker.loader import LoadedModel, load_model
from gpu_worker.protocol import WorkerConfig, read_code
from tests.custom_code import MODELING, forget_classes, make_repository
from tests.hub_cache import add_snapshot, use_hub_cache
from tests.tiny_gguf import save_gguf

__all__ = ["forget_classes"]  # a fixture

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_hub_cache(tmp_path / "hub", monkeypatch)


def load(model: str, **fields: Any) -> LoadedModel:
    return load_model(WorkerConfig(model=model, local_files_only=True, **fields), lambda _part, _stage: None)


def test_code_is_approved_for_a_commit_and_stays_there(cache: Path, tmp_path: Path) -> None:
    old = make_repository(add_snapshot(cache, "org/homemade", OLD), tmp_path / "old-ran")
    approved = fetch_code("org/homemade", "")
    assert approved == read_code(old)
    assert approved.commit == OLD
    new = make_repository(add_snapshot(cache, "org/homemade", NEW), tmp_path / "new-ran")

    loaded = load("org/homemade", revision=OLD, approved_code=approved.sha256)
    assert (loaded.architecture, loaded.revision) == ("HomemadeForCausalLM", OLD)
    with pytest.raises(UnapprovedCodeError, match=f"not the code that was approved.*commit {NEW}") as caught:
        load("org/homemade", approved_code=approved.sha256)
    assert caught.value.code == read_code(new)
    with pytest.raises(UnapprovedCodeError, match=MODELING) as caught:
        load("org/homemade")
    assert caught.value.code.commit == NEW
    assert not (tmp_path / "new-ran").exists()


def test_a_gguf_file_of_a_repository(cache: Path) -> None:
    snapshot = add_snapshot(cache, "org/tiny-GGUF", OLD)
    save_gguf(snapshot / "tiny.F32.gguf")
    (snapshot / "sub").mkdir()
    save_gguf(snapshot / "sub" / "other.gguf")
    for file in ("tiny.F32.gguf", "sub/other.gguf"):
        loaded = load(f"org/tiny-GGUF:{file}")
        assert (loaded.architecture, loaded.revision) == ("Qwen2ForCausalLM", OLD)
    with pytest.raises(LoadError, match=r"no file tiny\.gguf\. There is sub/other\.gguf, tiny\.F32\.gguf"):
        load("org/tiny-GGUF:tiny.gguf")
    with pytest.raises(LoadError, match="org/nothing is not on this machine"):
        load("org/nothing:tiny.gguf")
