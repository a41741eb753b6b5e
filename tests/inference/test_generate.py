"""generate() over a real link: what it yields, what it asks of the worker, and what it leaves in the ledger."""

import asyncio

import msgspec
import pytest

from apps.core.errors import (
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    RequestTimeout,
    ServiceError,
    Unavailable,
    UnsupportedParameter,
)
from apps.inference.clients import base
from apps.inference.events import Waiting
from apps.inference.generate import generate
from apps.registry.models import HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta, FailureCode, Finished, Started, ToolCallDelta
from tests.inference.conftest import Heard, MakeRequest, read, read_usage
from tests.scripted_worker import Answer, ScriptedWorker

pytestmark = pytest.mark.usefixtures("scripted_model")


async def test_events_come_in_order_and_usage_is_the_engines(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    answer = worker.reply(Answer(prompt_tokens=9, cached_tokens=4, reason="length"))
    heard = await read(make_request())
    kinds = [type(event) for event in heard.events if not isinstance(event, Waiting)]
    assert kinds == [Started, *[Delta] * len(answer.deltas), Finished]
    assert heard.text == answer.text
    row = await read_usage()
    assert (row.status, row.finish_reason, row.error_code) == (UsageStatus.OK, "length", "")
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens) == (9, 4, len(answer.deltas))
    assert (row.model_name, row.endpoint, row.streamed) == ("scripted", "test", True)
    assert row.replica_id is not None
    assert row.ttft_s is not None
    assert row.duration_s is not None
    assert 0 < row.ttft_s <= row.duration_s
    assert (row.queue_s, row.device_s) == (0.001, 0.004)


async def test_all_kinds_of_output_pass_unchanged(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    call = ToolCallDelta(0, id="call_1", name="get_weather", arguments='{"city"')
    worker.reply(Answer(deltas=(Delta("", reasoning="hm"), Delta("", tool_calls=[call])), reason="tool_calls"))
    heard = await read(make_request())
    deltas = [event for event in heard.events if isinstance(event, Delta)]
    assert [delta.reasoning for delta in deltas] == ["hm", ""]
    assert deltas[1].tool_calls == [call]
    assert heard.finishes[-1].reason == "tool_calls"


async def test_choices_are_told_apart_and_the_prompt_counts_once(
    worker: ScriptedWorker, make_request: MakeRequest
) -> None:
    answer = worker.say("a", "b", "c")
    heard = await read(make_request(n=3))
    assert heard.texts == dict.fromkeys(range(3), answer.text)
    assert [finished.last for finished in heard.finishes] == [False, False, True]
    row = await read_usage()
    assert (row.prompt_tokens, row.completion_tokens) == (answer.prompt_tokens, 9)


async def test_request_values_go_over_the_models_and_those_over_the_checkpoints(
    worker: ScriptedWorker, make_request: MakeRequest, scripted_model: HostedModel
) -> None:
    defaults = {"temperature": 0.1, "top_p": 0.2, "top_k": 3}
    worker.info = msgspec.structs.replace(worker.info, generation_defaults=defaults)
    scripted_model.generation_defaults = {"top_p": 0.5, "top_k": 5}
    scripted_model.chat_template_kwargs = {"enable_thinking": False, "tone": "dry"}
    scripted_model.reasoning = "off"
    await scripted_model.asave()
    await read(make_request(sampling={"top_k": 7, "seed": 11}, chat_template_kwargs={"tone": "warm"}))
    message = worker.generates[0]
    sampling = message.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.1, 0.5, 7, 11)
    assert sampling.min_p == 0.0
    assert message.chat_template_kwargs == {"enable_thinking": False, "tone": "warm"}
    assert (message.reasoning, message.enable_thinking, message.reasoning_effort) == ("off", None, None)


async def test_each_request_without_a_seed_gets_one_of_its_own(
    worker: ScriptedWorker, make_request: MakeRequest
) -> None:
    await read(make_request("a"))
    await read(make_request("b"))
    first, second = (message.sampling.seed for message in worker.generates)
    assert first != second
    assert all(0 <= seed < 2**63 for seed in (first, second))


async def test_bad_defaults_of_the_model_are_our_error(
    worker: ScriptedWorker, make_request: MakeRequest, scripted_model: HostedModel
) -> None:
    scripted_model.generation_defaults = {"top_p": "very"}
    await scripted_model.asave()
    with pytest.raises(InternalError, match="generation defaults"):
        await read(make_request())
    assert worker.generates == []


async def test_place_in_the_queue_is_told_until_output_comes(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    worker.reply(Answer(queue_positions=(2, 1)))
    heard = await read(make_request())
    queued = [wait.queue_position for wait in heard.waits if wait.stage == "queued"]
    assert queued == [2, 1]


async def test_open_row_is_there_before_the_first_output(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    worker.say("a", "b")
    events = generate(make_request())
    async for event in events:
        if isinstance(event, Delta):
            break
    row = await UsageRecord.objects.aget(pk="req-1")
    assert (row.status, row.owner) == (UsageStatus.OPEN, recorder.owner)
    await events.aclose()


async def test_no_ledger_no_answer(
    worker: ScriptedWorker, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.usage.recorder.WRITE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("apps.usage.recorder.Recorder._note_written", lambda self, batch: None)
    heard = Heard()
    with pytest.raises(Unavailable, match="Usage cannot be recorded"):
        await read(make_request(), heard)
    assert heard.num_tokens == 0


async def test_unknown_model_leaves_no_row(make_request: MakeRequest) -> None:
    with pytest.raises(ModelNotFound):
        await read(make_request(model="nobody"))
    assert not await UsageRecord.objects.aexists()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("invalid_request", InvalidRequest),
        ("context_length_exceeded", ContextLengthExceeded),
        ("unsupported", UnsupportedParameter),
        ("overloaded", Unavailable),
        ("internal", InternalError),
    ],
)
async def test_failure_before_the_start_is_the_matching_error(
    worker: ScriptedWorker, make_request: MakeRequest, code: FailureCode, error: type[ServiceError]
) -> None:
    worker.reply(Answer(fail=code, fail_message="the reason", fail_param="messages[0]"))
    heard = Heard()
    with pytest.raises(error) as caught:
        await read(make_request(), heard)
    assert type(caught.value) is error
    is_the_clients = issubclass(error, InvalidRequest)
    assert caught.value.param == ("messages[0]" if is_the_clients else None)
    assert ("the reason" in caught.value.message) == is_the_clients
    assert (caught.value.retry_after_s is not None) == (error is Unavailable)
    assert heard.num_started == 0
    row = await read_usage()
    assert (row.status, row.error_code) == (UsageStatus.ERROR, caught.value.code or caught.value.type)
    assert (row.prompt_tokens, row.completion_tokens) == (0, 0)


async def test_failure_in_the_middle_raises_after_what_came(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    worker.say("a", "b", "c", fail="internal", fail_after=2)
    heard = Heard()
    with pytest.raises(InternalError):
        await read(make_request(), heard)
    assert heard.text == "ab"
    row = await read_usage()
    assert (row.status, row.prompt_tokens, row.completion_tokens) == (UsageStatus.ERROR, 5, 2)


async def test_cancelled_reader_stops_the_worker_and_settles_the_engines_counts(
    worker: ScriptedWorker, make_request: MakeRequest
) -> None:
    worker.say("a", "b", "c", "d", hold_after=3)
    heard = Heard()
    task = asyncio.create_task(read(make_request(), heard))
    await worker.until(lambda w: w.num_sent == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await worker.until(lambda w: w.aborted == ["req-1"] and w.num_running == 0)
    row = await read_usage()
    assert (row.status, row.error_code) == (UsageStatus.CANCELLED, "")
    assert (row.prompt_tokens, row.completion_tokens) == (5, 3)


async def test_closed_generator_stops_the_worker(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    worker.say("a", "b", hold_after=1)
    events = generate(make_request())
    async for event in events:
        if isinstance(event, Delta):
            break
    await events.aclose()
    await worker.until(lambda w: w.aborted == ["req-1"])
    assert (await read_usage()).status == UsageStatus.CANCELLED


async def test_reader_that_leaves_after_the_last_event_had_everything(
    worker: ScriptedWorker, make_request: MakeRequest
) -> None:
    events = generate(make_request())
    async for event in events:
        if isinstance(event, Finished):
            break
    await events.aclose()
    assert (await read_usage()).status == UsageStatus.OK
    assert worker.aborted == []


async def test_slow_reader_is_cut_off_without_holding_up_others(
    worker: ScriptedWorker, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_BUFFERED_EVENTS", 8)
    endless = Answer.of(*["x"] * 10_000)
    short = Answer.of(*"short")
    worker.answer = lambda message: endless if message.id == "slow" else short
    slow = generate(make_request("slow"))
    async for event in slow:
        if isinstance(event, Delta):
            break
    assert (await read(make_request("quick"))).text == "short"
    await worker.until(lambda w: w.aborted == ["slow"])
    with pytest.raises(RequestTimeout, match="too slowly"):
        async for _ in slow:
            pass
    row = await read_usage("slow")
    assert (row.status, row.error_code) == (UsageStatus.CANCELLED, "client_too_slow")
    assert 8 < row.completion_tokens < 10_000


async def test_32_streams_with_16_cut_are_all_counted_exactly(
    worker: ScriptedWorker, make_request: MakeRequest
) -> None:
    texts = [f"{i} " for i in range(40)]
    worker.answer = lambda message: Answer.of(*texts, hold_after=20 if message.id.startswith("cut") else None)
    kept = [asyncio.create_task(read(make_request(f"kept-{i}"))) for i in range(16)]
    cut = [asyncio.create_task(read(make_request(f"cut-{i}"))) for i in range(16)]
    heards = await asyncio.gather(*kept)
    await worker.until(lambda w: w.num_sent == 16 * 40 + 16 * 20)
    for task in cut:
        task.cancel()
    await asyncio.wait(cut)
    await worker.until(lambda w: w.num_running == 0)
    assert {heard.text for heard in heards} == {"".join(texts)}
    rows = [await read_usage(message.id) for message in worker.generates]
    assert len(rows) == await UsageRecord.objects.acount() == 32
    for row in rows:
        was_cut = row.id.startswith("cut")
        assert row.status == (UsageStatus.CANCELLED if was_cut else UsageStatus.OK)
        assert row.completion_tokens == (20 if was_cut else 40)
