"""The ledger: a row before the first output, its end exactly once, nothing lost when the database is away."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.utils import timezone

from apps.accounts.models import Team, User
from apps.core.errors import Unavailable
from apps.usage import recorder as recorder_module
from apps.usage.entry import Entry
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.recorder import Recorder
from apps.usage.statements import write_heartbeat

MakeEntry = Callable[..., Entry]


async def read(request_id: str) -> UsageRecord:
    return await UsageRecord.objects.aget(pk=request_id)


async def flush(recorder: Recorder) -> None:
    assert await asyncio.to_thread(recorder.flush)


@contextmanager
def database_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Every write fails meanwhile. Yields a semaphore that is released with every try."""
    tries = threading.Semaphore(0)

    def fail(*batch: object) -> None:
        tries.release()
        raise OperationalError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(recorder_module, "write_entries", fail)
        patch.setattr(recorder_module, "RETRY_DELAYS_S", (0.0, 0.01))
        yield tries


async def test_open_row_is_committed_when_written_returns(recorder: Recorder, make_entry: MakeEntry) -> None:
    entry = make_entry("req-1")
    recorder.open(entry)
    await recorder.written(entry)
    row = await read("req-1")
    assert row.status == UsageStatus.OPEN
    assert (row.user_id, row.team_id, row.api_key_id) == (entry.caller.user_id, entry.caller.team_id, None)
    assert row.owner == recorder.owner != ""
    assert abs((row.created_at - timezone.now()).total_seconds()) < 60


async def test_end_holds_every_count_of_the_entry(recorder: Recorder, make_entry: MakeEntry) -> None:
    entry = make_entry("req-1")
    recorder.open(entry)
    entry.prompt_tokens, entry.cached_tokens, entry.completion_tokens, entry.reasoning_tokens = 7, 3, 11, 2
    entry.queue_s, entry.ttft_s, entry.device_s, entry.finish_reason = 0.25, 0.5, 0.75, "length"
    entry.replica_id, entry.revision = str(uuid.uuid4()), "abc"
    recorder.settle(entry, UsageStatus.OK)
    await flush(recorder)
    row = await read("req-1")
    assert row.status == UsageStatus.OK
    assert (row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.reasoning_tokens) == (7, 3, 11, 2)
    assert (row.queue_s, row.ttft_s, row.device_s, row.finish_reason) == (0.25, 0.5, 0.75, "length")
    assert (str(row.replica_id), row.revision) == (entry.replica_id, "abc")
    assert row.finished_at is not None
    assert row.finished_at >= row.created_at
    assert row.duration_s == pytest.approx((row.finished_at - row.created_at).total_seconds(), abs=0.1)


async def test_second_end_changes_nothing(recorder: Recorder, make_entry: MakeEntry) -> None:
    entry = make_entry("req-1")
    recorder.open(entry)
    entry.completion_tokens = 5
    recorder.settle(entry, UsageStatus.CANCELLED)
    recorder.settle(entry, UsageStatus.OK, error_code="late")
    await flush(recorder)
    row = await read("req-1")
    assert (row.status, row.completion_tokens, row.error_code) == (UsageStatus.CANCELLED, 5, "")


async def test_end_does_not_overwrite_a_row_that_was_swept(recorder: Recorder, make_entry: MakeEntry) -> None:
    entry = make_entry("req-1")
    recorder.open(entry)
    await recorder.written(entry)
    await UsageRecord.objects.filter(pk="req-1").aupdate(status=UsageStatus.LOST)
    entry.completion_tokens = 5
    recorder.settle(entry, UsageStatus.OK)
    await flush(recorder)
    assert (await read("req-1")).status == UsageStatus.LOST


async def test_a_thousand_at_once_share_commits(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_batches = 0
    write = recorder_module.write_entries

    def count(*batch: object) -> None:
        nonlocal num_batches
        num_batches += 1
        write(*batch)

    monkeypatch.setattr(recorder_module, "write_entries", count)
    entries = [make_entry(f"req-{i}") for i in range(1000)]
    for entry in entries:
        recorder.open(entry)
    await asyncio.gather(*(recorder.written(entry) for entry in entries))
    for entry in entries:
        recorder.settle(entry, UsageStatus.OK)
    await flush(recorder)
    assert await UsageRecord.objects.filter(status=UsageStatus.OK).acount() == 1000
    assert num_batches < 100


async def test_rows_outlive_an_outage_of_the_database(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = make_entry("before")
    recorder.open(before)
    await recorder.written(before)
    with database_away(monkeypatch) as tries:
        before.completion_tokens = 9
        recorder.settle(before, UsageStatus.OK)
        during = make_entry("during")
        recorder.open(during)
        written = asyncio.create_task(recorder.written(during))
        for _ in range(3):
            await asyncio.to_thread(tries.acquire)
        assert not written.done()
    await written
    await flush(recorder)
    assert (await read("before")).completion_tokens == 9
    assert (await read("during")).status == UsageStatus.OPEN
    assert "could not be written" in caplog.text


async def test_backlog_is_bounded(recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_PENDING", 10)
    with database_away(monkeypatch) as tries:
        recorder.open(make_entry("first"))
        await asyncio.to_thread(tries.acquire)
        for i in range(10):
            recorder.open(make_entry(f"req-{i}"))
        with pytest.raises(Unavailable):
            recorder.open(make_entry("one too many"))
    await flush(recorder)
    assert await UsageRecord.objects.acount() == 11


async def test_row_of_a_deleted_user_does_not_hold_back_others(recorder: Recorder, make_entry: MakeEntry) -> None:
    gone, other = make_entry("gone"), make_entry("other")
    ghost = type(gone.caller)(user_id=10**6, username="ghost", team_id=gone.caller.team_id)
    gone.caller = ghost
    recorder.open(gone)
    recorder.open(other)
    await recorder.written(gone)
    await recorder.written(other)
    row = await read("gone")
    assert (row.user_id, row.team_id) == (None, ghost.team_id)
    assert (await read("other")).user_id == other.caller.user_id


async def test_deleting_user_and_team_keeps_their_rows(recorder: Recorder, make_entry: MakeEntry) -> None:
    entry = make_entry("req-1")
    recorder.open(entry)
    recorder.settle(entry, UsageStatus.OK)
    await flush(recorder)
    await sync_to_async(User.objects.all().delete)()
    await sync_to_async(Team.objects.all().delete)()
    row = await read("req-1")
    assert (row.user_id, row.team_id, row.status) == (None, None, UsageStatus.OK)


async def test_counts_and_heartbeat_of_a_running_request_are_written(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = threading.Semaphore(0)

    def beat(owner: str) -> None:
        write_heartbeat(owner)
        beats.release()

    monkeypatch.setattr(recorder_module, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(recorder_module, "write_heartbeat", beat)
    entry = make_entry("req-1")
    recorder.open(entry)
    await recorder.written(entry)
    first = await read("req-1")
    entry.prompt_tokens, entry.completion_tokens = 4, 40
    while beats.acquire(blocking=False):
        pass
    for _ in range(2):  # the first may have begun before the counts were raised
        await asyncio.to_thread(beats.acquire)
    row = await read("req-1")
    assert (row.prompt_tokens, row.completion_tokens, row.status) == (4, 40, UsageStatus.OPEN)
    assert row.heartbeat_at > first.heartbeat_at


async def test_close_writes_what_is_pending_and_a_later_request_starts_anew(
    recorder: Recorder, make_entry: MakeEntry
) -> None:
    for name in ("first", "second"):
        entry = make_entry(name)
        recorder.open(entry)
        recorder.settle(entry, UsageStatus.OK)
        await asyncio.to_thread(recorder.close)
        assert (await read(name)).status == UsageStatus.OK


async def test_close_gives_up_when_the_database_stays_away(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with database_away(monkeypatch):
        recorder.open(make_entry("req-1"))
        await asyncio.to_thread(recorder.close)
    assert "usage of 1 requests was not written" in caplog.text


async def test_a_short_request_is_one_write(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, UsageStatus]] = []
    write = recorder_module.write_entries

    def note(entries: list[Entry], owner: str) -> None:
        written.extend((entry.id, entry.status) for entry in entries)
        write(entries, owner)

    monkeypatch.setattr(recorder_module, "write_entries", note)
    monkeypatch.setattr(recorder_module, "LINGER_S", 60.0)
    entry = make_entry("req-1")
    recorder.open(entry)
    recorder.settle(entry, UsageStatus.OK)
    await recorder.written(entry)
    assert written == [("req-1", UsageStatus.OK)]
    assert (await read("req-1")).status == UsageStatus.OK


async def test_a_line_that_nobody_waits_for_is_written_all_the_same(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_written = threading.Event()
    write = recorder_module.write_entries

    def note(entries: list[Entry], owner: str) -> None:
        write(entries, owner)
        is_written.set()

    monkeypatch.setattr(recorder_module, "write_entries", note)
    recorder.open(make_entry("req-1"))
    assert await asyncio.to_thread(is_written.wait, 10)
    assert (await read("req-1")).status == UsageStatus.OPEN


async def test_an_answer_whose_end_could_not_be_committed_has_failed(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make_entry("req-1")
    with database_away(monkeypatch) as tries:
        recorder.open(entry)
        recorder.settle(entry, UsageStatus.OK)
        written = asyncio.create_task(recorder.written(entry))
        await asyncio.to_thread(tries.acquire)
        written.cancel()
        recorder.settle(entry, UsageStatus.ERROR, error_code="service_unavailable")
    await flush(recorder)
    row = await read("req-1")
    assert (row.status, row.error_code) == (UsageStatus.ERROR, "service_unavailable")


async def test_lines_come_through_whenever_somebody_asks(recorder: Recorder, make_entry: MakeEntry) -> None:
    async def request(number: int) -> None:
        for turn in range(20):
            entry = make_entry(f"req-{number}-{turn}")
            recorder.open(entry)
            await asyncio.sleep(0.0001 * (number % 4))  # some ask while their line is being written
            if number % 2:
                recorder.settle(entry, UsageStatus.OK)
            async with asyncio.timeout(2):
                await recorder.written(entry)

    await asyncio.gather(*(request(number) for number in range(16)))


async def test_a_line_just_opened_does_not_join_the_batch_of_others(
    recorder: Recorder, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "LINGER_S", 60.0)
    fresh, asked = make_entry("fresh"), make_entry("asked")
    recorder.open(fresh)
    recorder.open(asked)
    await recorder.written(asked)
    assert not fresh.is_durable
    await flush(recorder)
    assert (await read("fresh")).status == UsageStatus.OPEN
