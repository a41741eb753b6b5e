"""Which code may run: found by workers, approved by administrators, told to workers."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from apps.registry import approvals, reconcile, services
from apps.registry.models import HostedModel, ModelCode, ReplicaState
from apps.registry.repository import RepositoryError, fetch_code
from gpu_worker.protocol import CodeFile, RepositoryCode, WorkerConfig, read_code
from tests.factories import make_model, make_replica, make_user
from tests.registry.conftest import Machine

MakeMachine = Callable[..., Machine]


def make_code(content: str = "x = 1", commit: str = "") -> RepositoryCode:
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return RepositoryCode(sha256, [CodeFile("modeling.py", sha256, len(content))], commit)


def approve(model: HostedModel, code: RepositoryCode) -> ModelCode:
    row = approvals.record_code(model=model, code=code)
    approvals.approve(row=row, by=None, through="a test")
    return row


def read_config(model: HostedModel) -> WorkerConfig:
    return reconcile.make_config(HostedModel.objects.get(pk=model.pk), token="t", fd=3)


def test_a_worker_is_told_the_approved_code_and_its_commit(db: None) -> None:
    model = make_model("m", source="org/m")
    approvals.record_code(model=model, code=make_code())
    assert (read_config(model).approved_code, read_config(model).revision) == (None, None)
    code = make_code("x = 2", commit="c0ffee")
    approve(model, code)
    assert (read_config(model).approved_code, read_config(model).revision) == (code.sha256, "c0ffee")


def test_an_approval_is_for_one_source_and_revision(db: None) -> None:
    model = make_model("m", source="org/m", revision="main")
    code = make_code(commit="c0ffee")
    approve(model, code)
    for changed in ({"source": "evil/m"}, {"revision": "dev"}):
        HostedModel.objects.filter(pk=model.pk).update(**{"source": "org/m", "revision": "main", **changed})
        assert read_config(model).approved_code is None
    HostedModel.objects.filter(pk=model.pk).update(source="org/m", revision="main")
    assert read_config(model).approved_code == code.sha256


def test_what_was_approved_last_counts_until_it_is_withdrawn(db: None) -> None:
    model = make_model("m")
    replica = make_replica(model)
    old, new = approve(model, make_code("old")), approve(model, make_code("new"))
    assert read_config(model).approved_code == new.sha256
    approvals.withdraw(row=new)
    assert read_config(model).approved_code == old.sha256
    replica.refresh_from_db()
    assert replica.state == ReplicaState.DRAINING


def test_a_model_that_failed_for_want_of_it_may_be_loaded_at_once(db: None) -> None:
    services.register_node(name="local", address="127.0.0.1", info={})
    model = make_model("m")
    make_replica(model, state=ReplicaState.FAILED, pid=1, last_error="It brings its own code.")
    services.request_replica(model_id=model.pk)
    assert model.replicas.exclude(state=ReplicaState.FAILED).count() == 0, "it has only just failed"
    approve(model, make_code())
    services.request_replica(model_id=model.pk)
    assert {replica.state for replica in model.replicas.all()} == {ReplicaState.STOPPED, ReplicaState.REQUESTED}


def test_it_is_recorded_who_approved_what_and_when(db: None) -> None:
    model, boss = make_model("m"), make_user("boss")
    row = approvals.record_code(model=model, code=make_code())
    assert (row.approved_at, row.approved_by) == (None, None)
    approvals.approve(row=row, by=boss, through="admin")
    row.refresh_from_db()
    assert (row.approved_by, row.approved_through) == (boss, "admin")
    assert row.approved_at is not None
    assert row.files == msgspec.to_builtins(make_code().files)
    boss.delete()
    assert read_config(model).approved_code == row.sha256


def test_code_that_a_worker_may_not_run_is_recorded_once(machine: MakeMachine) -> None:
    m = machine()
    m.step()
    code = make_code()
    m.say(status="failed", error="It brings its own code.", unapproved_code=msgspec.to_builtins(code))
    row = m.step_until(ReplicaState.FAILED)
    assert row.last_error == "It brings its own code."
    found = ModelCode.objects.get()
    assert (found.model, found.source, found.sha256, found.approved_at) == (row.model, "fine", code.sha256, None)
    assert approvals.record_code(model=row.model, code=code) == found
    assert ModelCode.objects.count() == 1


def test_a_worker_that_ended_before_it_was_asked_has_left_word_in_its_log(machine: MakeMachine) -> None:
    m = machine("foreign")
    m.step()
    row = m.step_until(ReplicaState.FAILED)
    assert row.last_error == "The model could not be loaded: it brings its own code."
    found = ModelCode.objects.get()
    assert (found.sha256, found.files[0]["path"], found.approved_at) == ("5a", "a.py", None)


def test_code_is_read_where_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").write_text("x = 1")
    assert fetch_code(str(tmp_path), "") == read_code(tmp_path)
    assert [file.path for file in read_code(tmp_path).files] == ["modeling.py"]
    assert fetch_code(f"{tmp_path}:tiny.gguf", "").files == []
    with pytest.raises(RepositoryError, match="cannot be read"):
        fetch_code("two words", "")


def test_the_hash_covers_content_paths_and_number(tmp_path: Path) -> None:
    seen = {read_code(tmp_path).sha256}
    (tmp_path / "a.py").write_text("x = 1")
    seen.add(read_code(tmp_path).sha256)
    (tmp_path / "a.py").write_text("x = 2")
    seen.add(read_code(tmp_path).sha256)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").rename(tmp_path / "sub" / "a.py")
    seen.add(read_code(tmp_path).sha256)
    (tmp_path / "config.json").write_text("{}")
    seen.add(read_code(tmp_path).sha256)
    assert len(seen) == 4, "configurations are no code"
