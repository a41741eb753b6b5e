"""Code of a model's repository: nothing of it runs unless exactly that code was approved."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpu_worker.load_error import LoadError, UnapprovedCodeError
from gpu_worker.loader import LoadedModel, find_folder, load_model
from gpu_worker.protocol import WorkerConfig, read_code
from tests.custom_code import (
    ARCHITECTURE,
    MODELING,
    TOKENIZATION,
    edit_json,
    forget_classes,
    make_repository,
    make_tokenizer_repository,
)
from tests.tiny_models import make_model
from tests.tiny_vision import make_folder
from tests.worker.engine.driving import generate, make_request

__all__ = ["forget_classes"]  # a fixture

Make = Callable[[Path, Path], Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def repository(tmp_path: Path, marker: Path) -> Path:
    return make_repository(tmp_path / "homemade", marker)


def load(folder: Path, approved: str | None = None) -> LoadedModel:
    return load_model(WorkerConfig(model=str(folder), approved_code=approved), lambda _part, _stage: None)


@pytest.mark.parametrize(
    ("make", "names"),
    [(make_repository, ["configuration_homemade.py", MODELING]), (make_tokenizer_repository, [TOKENIZATION])],
    ids=["model", "tokenizer"],
)
def test_without_approval_it_is_refused_by_name_before_a_line_runs(
    tmp_path: Path, marker: Path, make: Make, names: list[str]
) -> None:
    folder = make(tmp_path / "homemade", marker)
    with pytest.raises(UnapprovedCodeError, match="brings its own code") as caught:
        load(folder)
    assert [file.path for file in caught.value.code.files] == names
    assert caught.value.code == read_code(folder)
    assert all(name in str(caught.value) for name in [*names, caught.value.code.sha256])
    assert not marker.exists()


def test_approved_code_runs_and_answers_as_transformers_does(repository: Path, marker: Path) -> None:
    loaded = load(repository, read_code(repository).sha256)
    assert marker.exists()
    assert (loaded.architecture, loaded.revision) == ("HomemadeForCausalLM", "")
    request = make_request("a", [5, 6, 7])
    assert generate(loaded.model, request) == generate(make_model(ARCHITECTURE), request)


def test_approved_tokenizer_runs(tmp_path: Path, marker: Path) -> None:
    folder = make_tokenizer_repository(tmp_path / "homemade", marker)
    loaded = load(folder, read_code(folder).sha256)
    assert type(loaded.tokenizer).__name__ == "HomemadeTokenizer"
    assert loaded.tokenizer("w5 w6")["input_ids"] == [5, 6]


def add_line(folder: Path) -> None:
    with (folder / MODELING).open("a") as file:
        file.write("# harmless\n")


def add_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "more.py").touch()


def rename(folder: Path) -> None:
    (folder / MODELING).rename(folder / "modeling_other.py")


def remove(folder: Path) -> None:
    (folder / MODELING).unlink()


@pytest.mark.parametrize("tamper", [add_line, add_file, rename, remove], ids=lambda change: change.__name__)
def test_code_that_changed_after_its_approval_is_refused(
    repository: Path, marker: Path, tamper: Callable[[Path], None]
) -> None:
    approved = read_code(repository).sha256
    tamper(repository)
    with pytest.raises(UnapprovedCodeError, match="not the code that was approved") as caught:
        load(repository, approved)
    assert caught.value.code.sha256 == read_code(repository).sha256 != approved
    assert not marker.exists()


def test_what_changes_behind_the_check_is_not_what_runs(repository: Path, marker: Path) -> None:
    config = WorkerConfig(model=str(repository), approved_code=read_code(repository).sha256)
    folder = find_folder(config, lambda _part, _stage: None)
    (repository / MODELING).write_text("raise SystemExit('not approved')")
    edit_json(repository / "config.json", auto_map={"AutoConfig": "other/repository--evil.Config"})
    loaded = load_model(config, lambda _part, _stage: None, folder)
    assert marker.exists()
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), _parameters(), strict=True))


def _parameters() -> list[torch.nn.Parameter]:
    return list(make_model(ARCHITECTURE).parameters())


@pytest.mark.parametrize(
    "reference", ["other/repository--modeling.Model", "/tmp/modeling.Model", "../modeling.Model"], ids=str
)
def test_code_from_elsewhere_is_refused_even_with_an_approval(repository: Path, marker: Path, reference: str) -> None:
    edit_json(repository / "config.json", auto_map={"AutoConfig": reference})
    with pytest.raises(LoadError, match="code from elsewhere") as caught:
        load(repository, read_code(repository).sha256)
    assert reference in str(caught.value)
    assert not marker.exists()


def test_a_known_architecture_is_loaded_without_the_code_beside_it(repository: Path, marker: Path) -> None:
    """Many repositories keep the code that transformers has taken over since."""
    edit_json(repository / "config.json", model_type=ARCHITECTURE, architectures=["LlamaForCausalLM"])
    known = {"AutoTokenizer": [None, "tokenization_homemade.PreTrainedTokenizerFast"]}
    edit_json(repository / "tokenizer_config.json", auto_map=known)
    assert load(repository).architecture == "LlamaForCausalLM"
    assert not marker.exists()


def test_a_processor_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "seeing"
    folder.mkdir()
    for name in os.listdir(make_folder("llava")):
        (folder / name).write_bytes((make_folder("llava") / name).read_bytes())
    edit_json(folder / "processor_config.json", auto_map={"AutoProcessor": "processing.HomemadeProcessor"})
    (folder / "processing.py").write_text("raise SystemExit('foreign code ran')")
    with pytest.raises(UnapprovedCodeError, match=r"processing\.py"):
        load(folder)
