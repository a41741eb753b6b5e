"""A replica that dies, hangs or refuses: another goes on, and the client sees one stream."""

import asyncio
from collections.abc import Iterator

import pytest

from apps.core.errors import InternalError, Unavailable
from apps.inference import router
from apps.inference.clients import native
from apps.registry import directory
from apps.registry.models import Adapter, HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from gpu_worker.protocol import AdapterRef, Failed, FailureCode, Generate
from tests.inference.conftest import Heard, MakeRequest, read, read_usage
from tests.scripted_fixtures import register_worker
from tests.scripted_worker import Answer, ScriptedWorker

TEXTS = ("one ", "two ", "three ", "four ", "five")
WHOLE = "".join(TEXTS)


@pytest.fixture
def workers(scripted_model: HostedModel, worker: ScriptedWorker) -> Iterator[list[ScriptedWorker]]:
    """Two replicas of the model."""
    with ScriptedWorker() as second:
        register_worker(second)
        yield [worker, second]


def find_busy(workers: list[ScriptedWorker]) -> tuple[ScriptedWorker, ScriptedWorker]:
    """The worker that got the request, and the other."""
    first, second = workers
    return (first, second) if first.num_running else (second, first)


async def hold_then_kill(workers: list[ScriptedWorker], num_sent: int) -> tuple[ScriptedWorker, ScriptedWorker]:
    """Kill the busy worker once it has sent so much; the other goes to the end. Returns (killed, other)."""
    while not any(worker.num_sent == num_sent for worker in workers):  # noqa: ASYNC110 - they live in other threads
        await asyncio.sleep(0.01)  # which of them it will be is not known: a wait for the other would never end
    killed, other = find_busy(workers)
    other.say(*TEXTS)
    await asyncio.to_thread(killed.kill)
    return killed, other


async def test_another_replica_goes_on_where_the_dead_one_stopped(
    workers: list[ScriptedWorker], make_request: MakeRequest
) -> None:
    for worker in workers:
        worker.say(*TEXTS, hold_after=2)
    reading = asyncio.create_task(read(make_request()))
    killed, other = await hold_then_kill(workers, 2)
    heard = await reading
    assert heard.text == WHOLE
    assert (heard.num_started, len(heard.finishes), heard.num_tokens) == (1, 1, 5)
    first, second = killed.generates[0], other.generates[0]
    assert second.resume is not None
    assert [(choice.index, choice.token_ids) for choice in second.resume] == [(0, [1, 2])]
    assert second.sampling == first.sampling
    assert second.messages == first.messages
    row = await read_usage()
    assert (row.status, row.prompt_tokens, row.completion_tokens) == (UsageStatus.OK, 5, 5)
    assert await UsageRecord.objects.acount() == 1


async def test_the_other_replica_is_asked_for_the_same_adapter(
    workers: list[ScriptedWorker], scripted_model: HostedModel, make_request: MakeRequest
) -> None:
    await Adapter.objects.acreate(name="tuned", hosted_model=scripted_model, source="org/tuned", revision="v2")
    directory.invalidate()
    for worker in workers:
        worker.say(*TEXTS, hold_after=2)
    reading = asyncio.create_task(read(make_request(model="tuned")))
    killed, other = await hold_then_kill(workers, 2)
    assert (await reading).text == WHOLE
    assert other.generates[0].adapter == killed.generates[0].adapter == AdapterRef("tuned", "org/tuned", "v2")
    assert (await read_usage()).model_name == "tuned"


async def test_every_choice_goes_on(workers: list[ScriptedWorker], make_request: MakeRequest) -> None:
    for worker in workers:
        worker.say(*TEXTS, hold_after=3)
    reading = asyncio.create_task(read(make_request(n=2)))
    _, other = await hold_then_kill(workers, 6)
    heard = await reading
    assert heard.texts == {0: WHOLE, 1: WHOLE}
    assert [choice.token_ids for choice in other.generates[0].resume or []] == [[1, 2, 3], [1, 2, 3]]
    assert (await read_usage()).completion_tokens == 10


async def test_same_replica_goes_on_after_its_restart(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest
) -> None:
    worker.say(*TEXTS, hold_after=2)
    reading = asyncio.create_task(read(make_request()))
    await worker.until(lambda w: w.num_sent == 2)
    await asyncio.to_thread(worker.kill)
    worker.say(*TEXTS)
    await asyncio.to_thread(worker.restart)
    assert (await reading).text == WHOLE


async def test_death_without_a_successor_is_an_error_in_the_middle(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "FAILOVER_TIMEOUT_S", 0.1)
    worker.say(*TEXTS, hold_after=2)
    heard = Heard()
    reading = asyncio.create_task(read(make_request(), heard))
    await worker.until(lambda w: w.num_sent == 2)
    await asyncio.to_thread(worker.kill)
    with pytest.raises(Unavailable):
        await reading
    assert heard.text == "one two "
    row = await read_usage()
    assert (row.status, row.prompt_tokens, row.completion_tokens) == (UsageStatus.ERROR, 5, 2)


async def test_worker_that_says_nothing_any_more_is_taken_for_dead(
    workers: list[ScriptedWorker], make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(native, "DEAD_AFTER_S", 0.2)
    for worker in workers:
        worker.say(*TEXTS, hold_after=2)
    heard = Heard()
    reading = asyncio.create_task(read(make_request(), heard))
    await heard.until(lambda h: h.num_tokens == 2)
    hung, other = find_busy(workers)
    other.say(*TEXTS)
    hung.mute = True
    await reading
    assert heard.text == WHOLE


@pytest.mark.parametrize("code", ["overloaded", "not_ready", "internal"])
async def test_refusal_sends_the_request_elsewhere(
    workers: list[ScriptedWorker], make_request: MakeRequest, code: FailureCode
) -> None:
    refusing: list[str] = []

    def refuse_first(message: Generate) -> Answer:
        refusing.append(message.id)
        return Answer(fail=code) if len(refusing) == 1 else Answer.of(*TEXTS)

    for worker in workers:
        worker.answer = refuse_first
    heard = await read(make_request())
    assert heard.text == WHOLE
    assert [len(worker.generates) for worker in workers] == [1, 1]
    assert (await read_usage()).status == UsageStatus.OK


async def test_fault_in_the_middle_is_resumed_elsewhere_once(
    workers: list[ScriptedWorker], make_request: MakeRequest
) -> None:
    for worker in workers:
        worker.answer = lambda message: (
            Answer.of(*TEXTS) if message.resume else Answer.of(*TEXTS, fail="internal", fail_after=3)
        )
    heard = await read(make_request())
    assert heard.text == WHOLE
    assert (heard.num_started, heard.num_tokens) == (1, 5)


async def test_fault_everywhere_is_an_error(workers: list[ScriptedWorker], make_request: MakeRequest) -> None:
    for worker in workers:
        worker.say(*TEXTS, fail="internal", fail_after=2)
    with pytest.raises(InternalError):
        await read(make_request())
    assert sum(len(worker.generates) for worker in workers) == 2


async def test_full_everywhere_says_when_to_try_again(workers: list[ScriptedWorker], make_request: MakeRequest) -> None:
    for worker in workers:
        worker.reply(Answer(fail="overloaded"))
    with pytest.raises(Unavailable) as caught:
        await read(make_request())
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after_s is not None


async def test_request_that_kills_every_replica_is_given_up(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest
) -> None:
    worker.say(*TEXTS, hold_after=1)
    reading = asyncio.create_task(read(make_request()))
    for num_attempts in range(1, router.MAX_FAILOVERS + 2):
        await worker.until(lambda w, n=num_attempts: len(w.generates) == n)  # type: ignore[misc]
        await asyncio.to_thread(worker.kill)
        await asyncio.to_thread(worker.restart)
    with pytest.raises(Unavailable, match="went away"):
        await reading
    assert len(worker.generates) == router.MAX_FAILOVERS + 1


async def test_cut_during_the_failover_settles_once(
    worker: ScriptedWorker, scripted_model: HostedModel, make_request: MakeRequest
) -> None:
    worker.say(*TEXTS, hold_after=2)
    heard = Heard()
    reading = asyncio.create_task(read(make_request(), heard))
    await worker.until(lambda w: w.num_sent == 2)
    await asyncio.to_thread(worker.kill)
    await heard.until(lambda h: h.num_tokens == 2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    row = await read_usage()
    assert (row.status, row.completion_tokens) == (UsageStatus.CANCELLED, 2)


def test_failures_of_the_worker_never_reach_the_client_word_by_word() -> None:
    secret = "CUDA error at /srv/models/x"
    for code in ("overloaded", "not_ready", "internal"):
        assert secret not in router.to_service_error(Failed("r", code, secret)).message
