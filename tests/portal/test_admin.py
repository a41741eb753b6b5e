"""The admin: who may do what, what its buttons do, and that every page opens."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import current_app
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.core.files.base import ContentFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.keys import hash_key
from apps.accounts.models import APIKey, Membership, Team, User
from apps.batches.models import Batch, BatchStatus
from apps.core.ids import new_batch_id
from apps.core.secrets import decrypt
from apps.files.models import StoredFile
from apps.files.services import get_storage, store_content
from apps.mcp.models import CallStatus, McpServer, ToolCallRecord
from apps.registry.models import Adapter, Engine, HostedModel, ModelCode, Node, Replica, ReplicaState
from apps.usage.models import UsageRecord, UsageStatus
from tests.factories import make_key, make_model, make_replica, make_team, make_user
from tests.stored_files import clear_storage

OURS = [
    model
    for model in admin.site._registry
    if model._meta.app_label in ("accounts", "batches", "files", "mcp", "registry", "usage")
]


@pytest.fixture
def team(db: None) -> Team:
    return make_team("Research")


@pytest.fixture
def boss(team: Team) -> User:
    return make_user("boss", team=team, is_staff=True, is_superuser=True)


@pytest.fixture
def page(boss: User) -> Client:
    """A browser in which a superuser is logged in."""
    client = Client()
    client.force_login(boss)
    return client


@pytest.fixture
def node(db: None) -> Node:
    """A machine that can take replicas."""
    return Node.objects.create(name="local", last_seen_at=timezone.now())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tasks that were sent to machines, instead of a broker taking them."""
    sent: list[str] = []
    monkeypatch.setattr(current_app, "send_task", lambda name, **options: sent.append(name))
    return sent


def make_record(record_id: str, **fields: object) -> UsageRecord:
    values = {"model_name": "demo", "endpoint": "chat", "status": UsageStatus.OK, "prompt_tokens": 3, **fields}
    return UsageRecord.objects.create(id=record_id, **values)


@pytest.fixture(autouse=True)
def no_contents() -> Iterator[None]:
    """No content of a file outlives its test."""
    yield
    clear_storage()


def make_batch(boss: User, team: Team, **fields: object) -> Batch:
    problem = {"code": "invalid_json_line", "message": "<b>no</b>", "param": None, "line": 3}
    values = {"status": BatchStatus.IN_PROGRESS, "num_total": 40, "num_completed": 9, "num_failed": 1, **fields}
    return Batch.objects.create(
        id=new_batch_id(), user=boss, team=team, endpoint="/v1/embeddings", input_file_id="file-1",
        expires_at=timezone.now(), errors=json.dumps([problem]), **values,
    )  # fmt: skip


def make_file(boss: User, team: Team, **fields: object) -> StoredFile:
    storage_name = store_content(ContentFile(b"{}"))
    return StoredFile.objects.create(
        id=storage_name, user=boss, team=team, filename="in.jsonl", purpose="batch", num_bytes=2,
        storage_name=storage_name, **fields,
    )  # fmt: skip


def make_rows(boss: User, team: Team) -> dict[type, object]:
    """One row of each kind, all in use."""
    model = make_model("demo", teams=(team,))
    replica = make_replica(model, state=ReplicaState.FAILED, last_error="out of memory", log_tail="<b>Traceback</b>")
    return {
        User: boss,
        Team: team,
        APIKey: make_key(team=team, user=boss).key,
        HostedModel: model,
        ModelCode: ModelCode.objects.create(
            model=model, source="demo", sha256="0" * 64, files=[{"path": "<b>.py", "sha256": "1" * 64, "num_bytes": 9}]
        ),
        Adapter: Adapter.objects.create(name="tuned", hosted_model=model, source="org/tuned"),
        Replica: replica,
        Node: replica.node,
        Batch: make_batch(boss, team),
        StoredFile: make_file(boss, team),
        McpServer: McpServer.objects.create(name="kit", url="https://example.com/mcp", error="<b>refused</b>"),
        ToolCallRecord: ToolCallRecord.objects.create(
            server_label="kit", tool="add", user=boss, started_at=timezone.now(), duration_s=1, status=CallStatus.OK
        ),
        UsageRecord: make_record("chatcmpl-1", user=boss, team=team, status=UsageStatus.ERROR, error_code="broken"),
    }


def run_action(page: Client, model: type, action: str, *rows: object) -> str:
    """Runs the action on the rows of the list and returns what the page says then."""
    path = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    return page.post(path, chosen, follow=True).content.decode()


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_lists_and_details_open(page: Client, boss: User, team: Team, model: type) -> None:
    row = make_rows(boss, team)[model]
    prefix = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    assert page.get(reverse(f"{prefix}_changelist"), {"q": "x"}).status_code == 200
    assert page.get(reverse(f"{prefix}_changelist")).status_code == 200
    assert page.get(reverse(f"{prefix}_change", args=[row.pk])).status_code == 200
    assert page.get(reverse(f"{prefix}_add")).status_code == (
        403 if model in (Batch, ModelCode, Replica, Node, StoredFile, ToolCallRecord, UsageRecord) else 200
    )


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_members_have_no_admin(client: Client, team: Team, model: type) -> None:
    client.force_login(make_user("mina", team=team))
    response = client.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


def test_overview_says_what_runs_and_what_is_broken(page: Client, boss: User, team: Team) -> None:
    make_rows(boss, team)
    make_replica(make_model("fine"))
    Node.objects.update(last_seen_at=timezone.now() - timedelta(hours=1))
    text = page.get("/admin/").content.decode()
    for expected in ("demo has failed", "out of memory", "Machine local is silent", "fine", "1 of 1", "broken", "boss"):
        assert expected in text


def test_overview_of_an_empty_installation(page: Client) -> None:
    text = page.get("/admin/").content.decode()
    assert "No model is hosted yet." in text
    assert "Needs attention" not in text


def test_overview_shows_staff_only_what_they_may_see(client: Client, boss: User, team: Team) -> None:
    make_rows(boss, team)
    clerk = make_user("clerk", is_staff=True)
    client.force_login(clerk)
    text = client.get("/admin/").content.decode()
    assert "out of memory" not in text
    assert "Requests today" not in text
    clerk.user_permissions.add(Permission.objects.get(codename="view_usagerecord"))
    text = client.get("/admin/").content.decode()
    assert "Requests today" in text
    assert "out of memory" not in text


def test_code_is_shown_with_its_files_and_its_hash(page: Client, boss: User, team: Team) -> None:
    rows = make_rows(boss, team)
    text = page.get(reverse("admin:registry_modelcode_change", args=[rows[ModelCode].pk])).content.decode()
    assert "0" * 64 in text
    assert f"{'1' * 64}  &lt;b&gt;.py (9 bytes)" in text
    change = reverse("admin:registry_hostedmodel_change", args=[rows[HostedModel].pk])
    assert "0" * 64 in page.get(change).content.decode()
    assert "may run" in run_action(page, ModelCode, "approve", rows[ModelCode])


def test_new_key_is_shown_once(page: Client, boss: User, team: Team) -> None:
    path = reverse("admin:accounts_apikey_add")
    form = {"name": "robot", "user": boss.pk, "team": team.pk, "expires_at_0": "", "expires_at_1": ""}
    response = page.post(path, form)
    found = re.search(r'id="secret">(atr_[\w-]{43})<', response.content.decode())
    assert found
    key = APIKey.objects.get()
    assert key.key_hash == hash_key(found[1])
    assert "no-store" in response["Cache-Control"]
    assert found[1] not in response.cookies.output()
    change = page.get(reverse("admin:accounts_apikey_change", args=[key.pk])).content.decode()
    listed = page.get(reverse("admin:accounts_apikey_changelist")).content.decode()
    for text in (change, listed):
        assert key.key_hash not in text
        assert found[1] not in text


def test_key_needs_a_member_of_its_team(page: Client, boss: User) -> None:
    form = {"name": "robot", "user": boss.pk, "team": make_team("Others").pk, "expires_at_0": "", "expires_at_1": ""}
    text = page.post(reverse("admin:accounts_apikey_add"), form).content.decode()
    assert "is not a member of this team" in text
    assert APIKey.objects.count() == 0


def test_keys_are_revoked_and_only_ended_ones_deleted(page: Client, boss: User) -> None:
    key = make_key(user=boss).key
    delete = reverse("admin:accounts_apikey_delete", args=[key.pk])
    assert page.post(delete, {"post": "yes"}).status_code == 403
    assert "1 key was revoked." in run_action(page, APIKey, "revoke", key)
    key.refresh_from_db()
    assert not key.is_active
    assert page.post(delete, {"post": "yes"}).status_code == 302
    assert APIKey.objects.count() == 0


def test_saving_a_key_keeps_its_hash(page: Client, boss: User) -> None:
    key = make_key(user=boss, name="old").key
    form = {"name": "new", "key_hash": "0", "team": "999", "quotas-TOTAL_FORMS": "0", "quotas-INITIAL_FORMS": "0"}
    page.post(reverse("admin:accounts_apikey_change", args=[key.pk]), form)
    renamed = APIKey.objects.get()
    assert (renamed.name, renamed.key_hash, renamed.team_id) == ("new", key.key_hash, key.team_id)


def test_user_is_made_with_a_hashed_password_and_put_into_a_team(page: Client, team: Team) -> None:
    form = {"username": "jun", "password1": "long-enough-1", "password2": "long-enough-1", "usable_password": "true"}
    page.post(reverse("admin:accounts_user_add"), form)
    jun = User.objects.get(username="jun")
    assert jun.check_password("long-enough-1")
    change = reverse("admin:accounts_user_change", args=[jun.pk])
    form = {
        "username": "jun",
        "is_active": "on",
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "memberships-TOTAL_FORMS": "1",
        "memberships-INITIAL_FORMS": "0",
        "memberships-0-team": str(team.pk),
        "memberships-0-role": "member",
        "quotas-TOTAL_FORMS": "0",
        "quotas-INITIAL_FORMS": "0",
    }
    assert page.post(change, form).status_code == 302
    assert Membership.objects.filter(user=jun, team=team).exists()


def test_model_is_loaded_and_unloaded(page: Client, node: Node, launches: list[str]) -> None:
    model = make_model("demo")
    assert "1 model is loading." in run_action(page, HostedModel, "load", model)
    replica = Replica.objects.get()
    assert (replica.model, replica.state) == (model, ReplicaState.REQUESTED)
    Replica.objects.update(state=ReplicaState.READY)
    assert "1 replica is stopping." in run_action(page, HostedModel, "unload", model)
    replica.refresh_from_db()
    assert replica.state == ReplicaState.DRAINING


def test_loading_without_a_machine_says_why(page: Client) -> None:
    assert "No machine is available" in run_action(page, HostedModel, "load", make_model("demo"))


def test_model_with_a_bad_name_is_refused(page: Client) -> None:
    text = page.post(reverse("admin:registry_hostedmodel_add"), {"name": "../etc", "source": "x"}).content.decode()
    assert "separated by slashes" in text
    assert HostedModel.objects.count() == 0


def test_adapter_is_added_and_switched_off(page: Client) -> None:
    fields = {"name": "org/tuned", "hosted_model": make_model("demo").pk, "source": "/adapters/tuned", "enabled": "on"}
    assert page.post(reverse("admin:registry_adapter_add"), fields).status_code == 302
    adapter = Adapter.objects.get()
    assert (adapter.name, adapter.hosted_model.name, adapter.enabled) == ("org/tuned", "demo", True)
    page.post(reverse("admin:registry_adapter_change", args=[adapter.pk]), fields | {"enabled": ""})
    adapter.refresh_from_db()
    assert not adapter.enabled


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "demo"}, "A model has this name."),
        ({"name": "../etc"}, "separated by slashes"),
        ({"source": "../adapters"}, "Give a hub id, or a folder"),
        ({"source": "a/b/c"}, "Give a hub id, or a folder"),
    ],
    ids=["a model's name", "bad name", "relative folder", "no id"],
)
def test_adapter_that_cannot_be_is_refused(page: Client, changes: dict[str, str], sentence: str) -> None:
    fields = {"name": "tuned", "hosted_model": make_model("demo").pk, "source": "org/tuned"}
    text = page.post(reverse("admin:registry_adapter_add"), fields | changes).content.decode()
    assert sentence in text
    assert Adapter.objects.count() == 0


def test_model_with_the_name_of_an_adapter_is_refused(page: Client) -> None:
    Adapter.objects.create(name="tuned", hosted_model=make_model("demo"), source="org/tuned")
    text = page.post(reverse("admin:registry_hostedmodel_add"), {"name": "tuned", "source": "x"}).content.decode()
    assert "An adapter has this name." in text
    assert HostedModel.objects.count() == 1


def test_replica_is_stopped_and_restarted(page: Client, node: Node, launches: list[str]) -> None:
    replica = make_replica(make_model("demo"))
    run_action(page, Replica, "restart", replica)
    replica.refresh_from_db()
    assert replica.state == ReplicaState.DRAINING
    fresh = Replica.objects.get(state=ReplicaState.REQUESTED)
    assert "1 replica is stopping." in run_action(page, Replica, "stop", fresh)
    fresh.refresh_from_db()
    assert fresh.state == ReplicaState.STOPPED


def test_viewer_of_replicas_has_no_buttons(client: Client, db: None) -> None:
    viewer = make_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_replica"))
    client.force_login(viewer)
    replica = make_replica(make_model("demo"))
    run_action(client, Replica, "stop", replica)
    replica.refresh_from_db()
    assert replica.state == ReplicaState.READY


def test_running_replica_and_its_model_cannot_be_deleted(page: Client) -> None:
    replica = make_replica(make_model("demo"))
    assert page.post(reverse("admin:registry_replica_delete", args=[replica.pk]), {"post": "yes"}).status_code == 403
    page.post(reverse("admin:registry_hostedmodel_delete", args=[replica.model_id]), {"post": "yes"})
    assert HostedModel.objects.count() == 1
    Replica.objects.update(state=ReplicaState.STOPPED)
    page.post(reverse("admin:registry_hostedmodel_delete", args=[replica.model_id]), {"post": "yes"})
    assert HostedModel.objects.count() == 0


def test_log_of_a_replica_is_escaped(page: Client, boss: User, team: Team) -> None:
    replica = make_rows(boss, team)[Replica]
    text = page.get(reverse("admin:registry_replica_change", args=[replica.pk])).content.decode()
    assert "&lt;b&gt;Traceback" in text
    assert "<b>Traceback" not in text


def test_nobody_writes_in_the_ledger(page: Client) -> None:
    record = make_record("chatcmpl-1")
    assert page.get(reverse("admin:usage_usagerecord_add")).status_code == 403
    assert page.post(reverse("admin:usage_usagerecord_delete", args=[record.pk]), {"post": "yes"}).status_code == 403
    change = reverse("admin:usage_usagerecord_change", args=[record.pk])
    assert page.post(change, {"prompt_tokens": "0"}).status_code == 403
    run_action(page, UsageRecord, "delete_selected", record)
    record.refresh_from_db()
    assert record.prompt_tokens == 3


def test_ledger_is_exported_as_csv(page: Client, boss: User) -> None:
    old = make_record("chatcmpl-1", user=boss, created_at=timezone.now() - timedelta(days=1))
    new = make_record("chatcmpl-2", model_name="=cmd()", status=UsageStatus.CANCELLED)
    make_record("chatcmpl-3")
    rows = list(csv.DictReader(run_action(page, UsageRecord, "export_csv", old, new).splitlines()))
    assert [(row["id"], row["user__username"], row["model_name"], row["status"]) for row in rows] == [
        ("chatcmpl-1", "boss", "demo", "ok"),
        ("chatcmpl-2", "", "'=cmd()", "cancelled"),
    ]
    assert rows[0]["prompt_tokens"] == "3"


def test_ledger_is_filtered(page: Client, boss: User) -> None:
    make_record("chatcmpl-1", user=boss)
    make_record("chatcmpl-2", status=UsageStatus.ERROR, model_name="other")
    path = reverse("admin:usage_usagerecord_changelist")
    for query in ({"status__exact": "error"}, {"model_name": "other"}, {"user__isnull": "True"}):
        (found,) = page.get(path, query).context["cl"].result_list
        assert found.pk == "chatcmpl-2"


def test_batch_is_cancelled_with_its_progress_shown(page: Client, boss: User, team: Team, launches: list[str]) -> None:
    live, ended = make_batch(boss, team), make_batch(boss, team, status=BatchStatus.COMPLETED)
    assert "10 / 40" in page.get(reverse("admin:batches_batch_changelist")).content.decode()
    detail = page.get(reverse("admin:batches_batch_change", args=[live.pk])).content.decode()
    assert "3 invalid_json_line: &lt;b&gt;no&lt;/b&gt;" in detail
    assert "1 batch is being cancelled." in run_action(page, Batch, "cancel", live, ended)
    for batch, status in ((live, BatchStatus.CANCELLING), (ended, BatchStatus.COMPLETED)):
        batch.refresh_from_db()
        assert batch.status == status
    assert page.post(reverse("admin:batches_batch_delete", args=[live.pk]), {"post": "yes"}).status_code == 403
    assert page.post(reverse("admin:batches_batch_delete", args=[ended.pk]), {"post": "yes"}).status_code == 302


def test_file_is_deleted_with_its_content_unless_it_is_in_use(page: Client, boss: User, team: Team) -> None:
    files = [make_file(boss, team), make_file(boss, team), make_file(boss, team, is_held=True)]
    assert page.post(reverse("admin:files_storedfile_delete", args=[files[0].pk]), {"post": "yes"}).status_code == 302
    run_action(page, StoredFile, "delete_selected", *files[1:])
    page.post(
        reverse("admin:files_storedfile_changelist"),
        {"action": "delete_selected", "_selected_action": [file.pk for file in files[1:]], "post": "yes"},
    )
    assert list(StoredFile.objects.all()) == [files[2]]
    assert [get_storage().exists(file.storage_name) for file in files] == [False, False, True]


def test_the_secret_of_an_upstream_goes_in_and_never_comes_out(page: Client) -> None:
    model = make_model("far", engine=Engine.UPSTREAM, upstream_url="http://127.0.0.1:9/v1")
    address = reverse("admin:registry_hostedmodel_change", args=[model.pk])
    fields = {**_read_form(page, address), "new_secret": "sk-there"}
    response = page.post(address, fields)
    assert response.status_code == 302, response.context["errors"]
    model.refresh_from_db()
    assert decrypt(model.upstream_secret) == "sk-there"
    text = page.get(address).content.decode()
    assert "sk-there" not in text
    assert model.upstream_secret not in text
    assert page.post(address, {**fields, "new_secret": ""}).status_code == 302
    model.refresh_from_db()
    assert decrypt(model.upstream_secret) == "sk-there"
    assert page.post(address, {**fields, "new_secret": "", "upstream_url": "http://other/v1"}).status_code == 302
    model.refresh_from_db()
    assert model.upstream_secret == ""


def test_an_upstream_is_asked_in_place_of_being_loaded(page: Client) -> None:
    model = make_model("far", engine=Engine.UPSTREAM, upstream_url="http://127.0.0.1:9/v1")
    changelist = reverse("admin:registry_hostedmodel_changelist")
    said = page.post(changelist, {"action": "load", "_selected_action": [model.pk]}, follow=True).content.decode()
    assert "not a public one" in said
    assert "not a public one" in page.get(reverse("admin:index")).content.decode()


def _read_form(page: Client, address: str) -> dict[str, str]:
    """What a browser would send back of the form as it is shown."""
    response = page.get(address)
    fields = {
        name: "" if value is None else value for name, value in response.context["adminform"].form.initial.items()
    }
    for prefix in ("codes", "price", "quotas"):
        fields |= {f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0}
    fields["generation_defaults"] = fields["chat_template_kwargs"] = "{}"
    return {name: value for name, value in fields.items() if value not in ("", None) and value is not False}
