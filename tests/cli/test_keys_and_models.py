"""`manage.py keys` and `manage.py models`."""

import pytest
from django.core.management import CommandError, call_command

from apps.accounts.keys import hash_key
from apps.accounts.models import APIKey
from apps.core.secrets import decrypt
from apps.registry import approvals, services
from apps.registry.bootstrap import bootstrap
from apps.registry.models import Adapter, HostedModel, ModelCode, Replica, ReplicaState
from gpu_worker.protocol import read_code
from tests.factories import make_model, make_replica, make_team, make_user


@pytest.fixture
def run(capsys):
    def run(*arguments: str) -> str:
        call_command(*arguments)
        return capsys.readouterr().out

    return run


def test_a_key_is_created_listed_and_revoked(db, run):
    bootstrap(username="root")
    secret = run("keys", "create", "laptop").strip()
    key = APIKey.objects.get(key_hash=hash_key(secret))
    assert key.user.username == "root"
    listed = run("keys", "list")
    assert f"{key.pk}\t{key.prefix}\tactive\troot" in listed
    assert secret not in listed
    run("keys", "revoke", key.prefix)
    assert f"{key.pk}\t{key.prefix}\trevoked" in run("keys", "list")


def test_a_key_for_somebody_in_a_team(db, run):
    team = make_team("Vision Lab")
    make_user("kim", team=team)
    run("keys", "create", "server", "--user", "kim", "--team", "vision-lab", "--expires-in-days", "7")
    key = APIKey.objects.get()
    assert (key.user.username, key.team) == ("kim", team)
    assert (key.expires_at - key.created_at).days in (6, 7)
    with pytest.raises(CommandError, match="No such member"):
        run("keys", "create", "x", "--user", "nobody")


def test_revoking_what_does_not_exist(db, run):
    with pytest.raises(CommandError, match="No key begins"):
        run("keys", "revoke", "atr_none")


def test_a_model_is_added_listed_and_removed(db, run):
    run("models", "add", "Qwen/Qwen3-4B", "--revision", "main", "--max-model-len", "4096", "--dtype", "bfloat16")
    model = HostedModel.objects.get()
    assert (model.source, model.max_model_len, model.dtype) == ("Qwen/Qwen3-4B", 4096, "bfloat16")
    assert "Qwen/Qwen3-4B\tenabled\tQwen/Qwen3-4B\tmain" in run("models", "list")
    run("models", "remove", "Qwen/Qwen3-4B")
    assert not HostedModel.objects.exists()


def test_an_adapter_is_added_listed_and_removed(db, run):
    make_model("base")
    run("models", "add", "tuned", "--adapter-of", "base", "--source", "org/tuned", "--revision", "v2")
    adapter = Adapter.objects.get()
    assert (adapter.hosted_model.name, adapter.source, adapter.revision) == ("base", "org/tuned", "v2")
    assert "tuned\tadapter of base\torg/tuned\tv2" in run("models", "list")
    for name, message in (("base", "A model has this name"), ("a b", "Use letters")):
        with pytest.raises(CommandError, match=message):
            run("models", "add", name, "--adapter-of", "base", "--source", "org/tuned")
    with pytest.raises(CommandError, match="There is no model nothing"):
        run("models", "add", "x", "--adapter-of", "nothing")
    run("models", "remove", "tuned")
    assert (Adapter.objects.count(), HostedModel.objects.count()) == (0, 1)


def test_an_upstream_is_added_and_shown(db, run, monkeypatch):
    monkeypatch.setenv("THEIR_KEY", "sk-there")
    address = ["--upstream", "http://127.0.0.1:9/v1", "--upstream-kind", "vllm"]
    run("models", "add", "far", "--source", "there", *address, "--secret-env", "THEIR_KEY")
    model = HostedModel.objects.get()
    assert (model.engine, model.upstream_dialect, model.source) == ("upstream", "vllm", "there")
    assert decrypt(model.upstream_secret) == "sk-there"
    assert "far\tupstream\thttp://127.0.0.1:9/v1\tnot checked" in run("models", "status")
    with pytest.raises(CommandError, match="not a public one"):
        run("models", "load", "far")
    assert "not a public one" in run("models", "status", "far")
    for flags in (["--secret-env", "THEIR_KEY"], ["--upstream", "there"], [*address, "--secret-env", "NOTHING"]):
        with pytest.raises(CommandError):
            run("models", "add", "other", *flags)


@pytest.mark.parametrize("name", ["../etc/passwd", "a@b", "/abs", "has space"])
def test_a_name_that_cannot_be_one_is_refused(db, run, name):
    with pytest.raises(CommandError, match="name"):
        run("models", "add", name)


def test_a_model_is_added_once(db, run):
    run("models", "add", "m")
    with pytest.raises(CommandError, match="name"):
        run("models", "add", "m")


def test_code_is_approved_as_it_is_now(db, run, tmp_path):
    (tmp_path / "modeling.py").write_text("x = 1")
    said = run("models", "add", "m", "--source", str(tmp_path), "--trust-remote-code")
    code = ModelCode.objects.get()
    assert (code.sha256, code.approved_by) == (read_code(tmp_path).sha256, None)
    assert code.approved_through == "models add --trust-remote-code"
    assert "modeling.py" in said
    assert code.sha256 in said
    (tmp_path / "modeling.py").write_text("x = 2")
    run("models", "approve-code", "m")
    assert approvals.find_approved(HostedModel.objects.get()).sha256 == read_code(tmp_path).sha256 != code.sha256
    (tmp_path / "modeling.py").unlink()
    assert "brings no code" in run("models", "approve-code", "m")


def test_a_model_whose_code_cannot_be_read_is_not_added(db, run):
    with pytest.raises(CommandError, match="cannot be read on this machine"):
        run("models", "add", "m", "--source", "two words", "--trust-remote-code")
    assert not HostedModel.objects.exists()


def test_load_asks_for_a_replica_and_unload_drains_it(db, run):
    services.register_node(name="local", address="127.0.0.1", info={})
    make_model("m")
    run("models", "load", "m")
    assert Replica.objects.get().state == ReplicaState.REQUESTED
    assert "m\trequested" in run("models", "status")
    run("models", "unload", "m")
    assert Replica.objects.get().state == ReplicaState.STOPPED


def test_load_without_a_machine_says_so(db, run):
    make_model("m")
    with pytest.raises(CommandError, match="No machine"):
        run("models", "load", "m")


def test_status_tells_why_a_replica_failed(db, run):
    make_replica(make_model("m"), state=ReplicaState.FAILED, last_error="no weights")
    assert "no weights" in run("models", "status", "m")


def test_unknown_models_are_named(db, run):
    with pytest.raises(CommandError, match="no model nothing"):
        run("models", "load", "nothing")
