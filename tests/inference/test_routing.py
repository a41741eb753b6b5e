"""Which replica is taken, and how a request waits for one."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.conf import settings

from apps.core import snapshots
from apps.core.errors import Unavailable
from apps.inference import router
from apps.inference.events import Waiting
from apps.inference.generate import load
from apps.inference.pool import get_pool
from apps.inference.router import _choose
from apps.registry import directory
from apps.registry.models import HostedModel, Replica, ReplicaState
from apps.usage.models import UsageStatus
from tests.factories import make_model
from tests.inference.conftest import Heard, MakeRequest, read, read_usage
from tests.scripted_fixtures import register_worker
from tests.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class FakeLink:
    """A link's face towards the router."""

    replica_id: str
    load: int = 0


def choose(loads: dict[str, int], affinity: str) -> str:
    return _choose([FakeLink(name, load) for name, load in loads.items()], affinity).replica_id  # type: ignore[misc]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[int]:
    """Models for which the control plane was asked to start a replica."""
    calls: asyncio.Queue[int] = asyncio.Queue()

    async def request_replica(model_id: int) -> None:
        calls.put_nowait(model_id)

    monkeypatch.setattr(directory, "request_replica", request_replica)
    return calls


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "POLL_S", 0.02)
    monkeypatch.setattr(snapshots, "MAX_AGE_S", 0.0)


def test_same_beginning_goes_to_the_same_replica_while_loads_are_alike() -> None:
    loads = {"a": 0, "b": 1, "c": 2}
    chosen = {choose(loads, "You are a pirate.") for _ in range(5)}
    assert len(chosen) == 1
    assert {choose(loads, f"prompt {i}") for i in range(50)} == {"a", "b", "c"}


def test_busy_replica_is_passed_over_whatever_it_has_cached() -> None:
    assert {choose({"a": 10, "b": 0}, f"prompt {i}") for i in range(20)} == {"b"}


def test_prefixes_stay_when_another_replica_leaves() -> None:
    prompts = [f"prompt {i}" for i in range(100)]
    before = {prompt: choose({"a": 0, "b": 0, "c": 0}, prompt) for prompt in prompts}
    after = {prompt: choose({"a": 0, "b": 0}, prompt) for prompt in prompts}
    assert all(after[prompt] == before[prompt] for prompt in prompts if before[prompt] != "c")


async def test_requests_spread_over_replicas(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest
) -> None:
    with ScriptedWorker() as second:
        await asyncio.to_thread(register_worker, second)
        for each in (worker, second):
            each.say("a", "b", hold_after=1)
        await dial_all(scripted_model)
        readings = [asyncio.create_task(read(make_request(f"r{i}"))) for i in range(16)]
        await worker.until(lambda w: w.num_running + second.num_running == 16)
        assert worker.num_running >= 6
        assert second.num_running >= 6
        for each in (worker, second):
            await asyncio.to_thread(each.release)
        await asyncio.gather(*readings)


async def test_progress_of_loading_is_told_until_the_model_is_there(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest, quick_polls: None
) -> None:
    worker.set_loading(0.25)
    heard = Heard()
    reading = asyncio.create_task(read(make_request(), heard))
    await heard.until(lambda h: Waiting("loading", progress=0.25) in h.events)
    worker.set_loading(0.75)
    await heard.until(lambda h: Waiting("loading", progress=0.75) in h.events)
    assert heard.num_started == 0
    worker.set_ready()
    await reading
    assert heard.text == "Hello, world!"


async def test_load_ends_when_a_replica_is_ready(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest, quick_polls: None
) -> None:
    worker.set_loading(0.5)
    heard = Heard()

    async def read_load() -> None:
        async for waiting in load("scripted", make_request().caller):
            heard.add(waiting)

    loading = asyncio.create_task(read_load())
    await heard.until(lambda h: Waiting("loading", progress=0.5) in h.events)
    worker.set_ready()
    await loading
    assert worker.generates == []


async def test_model_without_replica_has_one_asked_for(
    worker: ScriptedWorker, make_request: MakeRequest, asked: asyncio.Queue[int], quick_polls: None
) -> None:
    model = await asyncio.to_thread(make_model, "scripted")
    reading = asyncio.create_task(read(make_request()))
    assert await asked.get() == model.pk
    await asyncio.to_thread(register_worker, worker)
    assert (await reading).text == "Hello, world!"
    assert asked.empty()


async def test_model_that_cannot_be_loaded_says_why(
    worker: ScriptedWorker,
    scripted_model: HostedModel,
    make_request: MakeRequest,
    asked: asyncio.Queue[int],
    quick_polls: None,
) -> None:
    worker.set_loading(0.5)
    heard = Heard()
    reading = asyncio.create_task(read(make_request(), heard))
    await heard.until(lambda h: Waiting("loading", progress=0.5) in h.events)
    await Replica.objects.aupdate(state=ReplicaState.FAILED, last_error="The folder holds no model.")
    with pytest.raises(Unavailable, match="The folder holds no model") as caught:
        await reading
    assert caught.value.code == "model_load_failed"
    row = await read_usage()
    assert (row.status, row.error_code, row.prompt_tokens) == (UsageStatus.ERROR, "model_load_failed", 0)


async def test_old_failure_does_not_keep_a_new_request_from_asking_again(
    worker: ScriptedWorker,
    scripted_model: HostedModel,
    make_request: MakeRequest,
    asked: asyncio.Queue[int],
    quick_polls: None,
) -> None:
    await Replica.objects.aupdate(state=ReplicaState.FAILED, last_error="long ago")
    reading = asyncio.create_task(read(make_request()))
    assert await asked.get() == scripted_model.pk
    await asyncio.to_thread(register_worker, worker)
    assert (await reading).text == "Hello, world!"


async def test_wait_for_a_model_ends_at_the_time_limit(
    worker: ScriptedWorker,
    scripted_model: HostedModel,
    make_request: MakeRequest,
    quick_polls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "LOAD_TIMEOUT_S", 0.1)
    worker.set_loading(0.5)
    with pytest.raises(Unavailable) as caught:
        await read(make_request())
    assert caught.value.code == "model_load_timeout"


async def test_draining_replica_gets_no_new_request(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest, quick_polls: None
) -> None:
    await Replica.objects.aupdate(state=ReplicaState.DRAINING)
    with ScriptedWorker() as second:
        await asyncio.to_thread(register_worker, second)
        await read(make_request())
        assert len(second.generates) == 1
    assert worker.generates == []


async def test_cut_while_loading_is_settled_without_a_word_to_the_worker(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest, quick_polls: None
) -> None:
    worker.set_loading(0.5)
    heard = Heard()
    reading = asyncio.create_task(read(make_request(), heard))
    await heard.until(lambda h: bool(h.waits))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    row = await read_usage()
    assert (row.status, row.prompt_tokens, row.replica_id) == (UsageStatus.CANCELLED, 0, None)
    assert worker.received == []


async def test_wrong_token_is_never_ready(
    worker: ScriptedWorker,
    scripted_model: HostedModel,
    make_request: MakeRequest,
    quick_polls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "LOAD_TIMEOUT_S", 0.2)
    await Replica.objects.aupdate(token="wrong")
    with pytest.raises(Unavailable):
        await read(make_request())
    assert worker.num_connections == 0


@pytest.fixture(autouse=True)
def forget_snapshot() -> Iterator[None]:
    """Rows of one test are unknown to the next."""
    directory.invalidate()
    yield
    directory.invalidate()


async def dial_all(model: HostedModel) -> None:
    """Until every replica of the model is connected and ready."""
    replicas = await directory.get_replicas(model.pk)
    async with asyncio.timeout(10):
        while not all(link.info for link in get_pool().get_links(replicas)):
            await get_pool().wait_for_change(1.0)
