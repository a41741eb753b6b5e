"""What a caller may name."""

from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, ModelNotFound
from apps.registry import directory
from apps.registry.models import HostedModel, Replica, ReplicaState
from tests.factories import make_model, make_replica, make_team

pytestmark = pytest.mark.django_db(transaction=True)


def caller_of(team_id: int) -> Caller:
    return Caller(user_id=1, username="u", team_id=team_id)


async def test_a_model_for_all_and_one_for_a_team():
    team = await sync_to_async(make_team)()
    await sync_to_async(make_model)("open/to-all", generation_defaults={"top_k": 5})
    await sync_to_async(make_model)("ours", teams=(team,))
    member, outsider = caller_of(team.pk), caller_of(team.pk + 1)
    assert [spec.name for spec in await directory.list_models(member)] == ["open/to-all", "ours"]
    assert [spec.name for spec in await directory.list_models(outsider)] == ["open/to-all"]
    assert (await directory.get_model("ours", member)).team_ids == {team.pk}
    assert (await directory.get_model("open/to-all", outsider)).generation_defaults == {"top_k": 5}
    with pytest.raises(ModelNotFound) as hidden:
        await directory.get_model("ours", outsider)
    with pytest.raises(ModelNotFound) as unknown:
        await directory.get_model("nothing", outsider)
    assert hidden.value.message.replace("ours", "nothing") == unknown.value.message, "existence must not leak"


async def test_the_context_length_is_the_settings_or_what_the_last_replica_had():
    model = await sync_to_async(make_model)("learned")
    await sync_to_async(make_model)("set", max_model_len=4096)
    assert (await directory.get_model("learned", caller_of(1))).context_length is None
    for length, age_s in ((1024, 60), (2048, 0)):
        await sync_to_async(make_replica)(
            model,
            state=ReplicaState.STOPPED,
            info={"max_model_len": length},
            ready_at=timezone.now() - timedelta(seconds=age_s),
        )
    assert (await directory.get_model("learned", caller_of(1))).context_length == 2048
    assert (await directory.get_model("set", caller_of(1))).context_length == 4096


async def test_what_a_model_reads_is_what_its_last_replica_said():
    model = await sync_to_async(make_model)("seeing")
    assert (await directory.get_model("seeing", caller_of(1))).input_modalities is None
    now = timezone.now()
    info = {"max_model_len": 9}
    await sync_to_async(make_replica)(model, info=info, ready_at=now - timedelta(seconds=60))
    assert (await directory.get_model("seeing", caller_of(1))).input_modalities == ("text",)
    await sync_to_async(make_replica)(model, info=info | {"supports_images": True}, ready_at=now)
    assert (await directory.get_model("seeing", caller_of(1))).input_modalities == ("text", "image")
    later = now + timedelta(seconds=1)
    await sync_to_async(make_replica)(model, info=info | {"task": "transcribe"}, ready_at=later)
    assert (await directory.get_model("seeing", caller_of(1))).input_modalities == ("audio",)


@pytest.mark.parametrize(("said", "task"), [({}, "generate"), ({"task": "embed"}, "embed")], ids=["default", "embed"])
async def test_the_task_is_what_the_last_replica_said(said: dict[str, str], task: str):
    model = await sync_to_async(make_model)("learned")
    assert (await directory.get_model("learned", caller_of(1))).task is None
    info = {"max_model_len": 8, **said}
    await sync_to_async(make_replica)(model, state=ReplicaState.STOPPED, info=info, ready_at=timezone.now())
    assert (await directory.get_model("learned", caller_of(1))).task == task


async def test_a_disabled_model_is_unknown():
    await sync_to_async(make_model)("off", enabled=False)
    with pytest.raises(ModelNotFound):
        await directory.get_model("off", caller_of(1))


@pytest.mark.parametrize(
    ("revision", "asked", "found"),
    [("", "m", True), ("", "m@main", True), ("", "m@v2", False), ("v2", "m@v2", True), ("v2", "m@main", False)],
)
async def test_a_request_may_pin_the_revision(revision, asked, found):
    await sync_to_async(make_model)("m", revision=revision)
    if found:
        assert (await directory.get_model(asked, caller_of(1))).revision == revision
    else:
        with pytest.raises(ModelNotFound, match="revision"):
            await directory.get_model(asked, caller_of(1))


async def test_a_gguf_file_stands_behind_the_revision():
    await sync_to_async(make_model)("org/m:a.gguf", revision="v2")
    for asked in ("org/m:a.gguf", "org/m@v2:a.gguf"):
        assert (await directory.get_model(asked, caller_of(1))).name == "org/m:a.gguf"
    for asked in ("org/m", "org/m@v2", "org/m:b.gguf", "org/m@v1:a.gguf"):
        with pytest.raises(ModelNotFound):
            await directory.get_model(asked, caller_of(1))


async def test_a_pinned_server_refuses_every_other_name(settings):
    settings.FORCE_MODEL = "pinned"
    await sync_to_async(make_model)("pinned")
    await sync_to_async(make_model)("other")
    assert (await directory.get_model("pinned@main", caller_of(1))).name == "pinned"
    assert [spec.name for spec in await directory.list_models(caller_of(1))] == ["pinned"]
    with pytest.raises(InvalidRequest) as refused:
        await directory.get_model("other", caller_of(1))
    assert refused.value.param == "model"


async def test_replicas_have_an_address_once_started_and_stopped_ones_are_left_out():
    model = await sync_to_async(make_model)()
    await sync_to_async(make_replica)(model, port=5001, token="secret")
    await sync_to_async(make_replica)(model, state=ReplicaState.REQUESTED)
    await sync_to_async(make_replica)(model, state=ReplicaState.STOPPED)
    replicas = await directory.get_replicas(model.pk)
    assert {(replica.state, replica.url) for replica in replicas} == {
        ("ready", "ws://127.0.0.1:5001"),
        ("requested", ""),
    }
    assert all("secret" not in repr(replica) for replica in replicas)


async def test_the_snapshot_is_kept_until_it_is_invalidated():
    await sync_to_async(make_model)("first")
    caller = caller_of(1)
    assert len(await directory.list_models(caller)) == 1
    await HostedModel.objects.acreate(name="second", source="second")
    directory.invalidate()
    assert len(await directory.list_models(caller)) == 2


async def test_asking_for_a_replica_is_seen_at_once(node):
    model = await sync_to_async(make_model)()
    await directory.request_replica(model.pk)
    await directory.request_replica(model.pk)
    assert await Replica.objects.acount() == 1
    assert [replica.state for replica in await directory.get_replicas(model.pk)] == ["requested"]
