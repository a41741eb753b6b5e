"""Batches that lose the process that works on them: another goes on, and no line is answered twice."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from apps.accounts.models import User
from apps.batches import leases, run
from apps.batches.models import Batch, BatchStatus, FinishedLine
from apps.batches.runner import runner
from apps.files.services import get_storage
from gpu_worker.protocol import Generate
from tests.api.batch_fixtures import BatchApi, batches, make_line, scripted
from tests.api.conftest import wait_for_settled_rows, wait_until
from tests.api.test_batches import hold
from tests.scripted_worker import Answer, ScriptedWorker

__all__ = ["batches", "scripted"]  # fixtures

LINES = [make_line(custom_id) for custom_id in "abcd"]


def count_asked(worker: ScriptedWorker) -> dict[str, int]:
    """How often each line was asked of the model."""
    contents = [(message.messages or [])[0]["content"] for message in worker.generates]
    return {content: contents.count(content) for content in sorted(set(contents))}


def run_half(api: BatchApi, worker: ScriptedWorker) -> dict[str, Any]:
    """A batch of which two lines are answered and two are with the model."""
    hold(worker, "c", "d")
    batch = api.create(LINES)
    wait_until(lambda: api.get(batch)["request_counts"]["completed"] == 2)
    worker.wait_for(lambda worker: worker.num_running == 2)
    return batch


def check_whole(api: BatchApi, batch: dict[str, Any]) -> None:
    done = api.wait_for(batch, "completed")
    assert done["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    assert set(api.read(done["output_file_id"])) == set("abcd")
    assert not FinishedLine.objects.exists()


def make_stale(**fields: Any) -> None:
    """As a process leaves its batches that is killed."""
    Batch.objects.update(
        owner="gone", heartbeat_at=timezone.now() - leases.STALE_AFTER - timedelta(seconds=1), **fields
    )


def test_a_process_that_stops_lets_go_and_the_next_goes_on(scripted: BatchApi, worker: ScriptedWorker) -> None:
    batch = run_half(scripted, worker)
    runner.stop()
    row = Batch.objects.get()
    assert (row.status, row.owner, row.num_completed, row.num_crashes) == (BatchStatus.IN_PROGRESS, "", 2, 0)
    worker.wait_for(lambda worker: len(worker.aborted) == 2)
    worker.say("a", "b")
    runner.start_due()
    check_whole(scripted, batch)
    assert count_asked(worker) == {"a": 1, "b": 1, "c": 2, "d": 2}
    statuses = sorted(row.status for row in wait_for_settled_rows(6))
    assert statuses == ["cancelled"] * 2 + ["ok"] * 4


@pytest.mark.parametrize("status", [BatchStatus.VALIDATING, BatchStatus.FINALIZING, BatchStatus.CANCELLING])
def test_a_batch_is_taken_up_wherever_it_was_left(
    scripted: BatchApi, worker: ScriptedWorker, status: BatchStatus
) -> None:
    batch = run_half(scripted, worker)
    runner.stop()
    make_stale(status=status)
    worker.say("a", "b")
    runner.start_due()
    if status is BatchStatus.VALIDATING:
        check_whole(scripted, batch)
        wait_for_settled_rows(6)
        return
    done = scripted.wait_for(batch, "completed", "cancelled")
    assert done["status"] == ("cancelled" if status is BatchStatus.CANCELLING else "completed")
    assert set(scripted.read(done["output_file_id"])) == {"a", "b"}
    assert set(scripted.read(done["error_file_id"])) == ({"c", "d"} if status is BatchStatus.CANCELLING else set())
    wait_for_settled_rows(4)


def test_only_a_silent_owner_is_replaced(scripted: BatchApi, worker: ScriptedWorker) -> None:
    batch = run_half(scripted, worker)
    runner.stop()
    worker.say("a", "b")
    Batch.objects.update(owner="another", heartbeat_at=timezone.now())
    assert leases.list_due() == []
    assert leases.take(batch["id"], "me") is None
    make_stale()
    assert leases.list_due() == [batch["id"]]
    runner.start_due()
    check_whole(scripted, batch)
    wait_for_settled_rows(6)


def test_who_has_lost_a_batch_writes_nothing_more(scripted: BatchApi, worker: ScriptedWorker) -> None:
    batch = run_half(scripted, worker)
    Batch.objects.update(owner="another", heartbeat_at=timezone.now())
    worker.wait_for(lambda worker: len(worker.aborted) == 2)  # it was noticed
    wait_for_settled_rows(4)
    row = Batch.objects.get()
    assert (row.owner, row.status, row.num_completed) == ("another", BatchStatus.IN_PROGRESS, 2)
    assert FinishedLine.objects.count() == 2
    assert not leases.add_outcomes(batch["id"], "me", [])
    assert not leases.end(row_of(batch, "me"), BatchStatus.COMPLETED, output=None, errors=None, problems=[])
    make_stale()
    worker.say("a", "b")
    runner.start_due()
    check_whole(scripted, batch)
    wait_for_settled_rows(6)


def row_of(batch: dict[str, Any], owner: str) -> Batch:
    """The batch as somebody holds it who owned it once."""
    row = Batch.objects.get(pk=batch["id"])
    row.owner = owner
    return row


def test_a_batch_whose_owner_is_deleted_just_stops(scripted: BatchApi, worker: ScriptedWorker) -> None:
    run_half(scripted, worker)
    User.objects.all().delete()
    worker.wait_for(lambda worker: len(worker.aborted) == 2)
    wait_until(lambda: not runner._runs)
    wait_for_settled_rows(4)
    assert not Batch.objects.exists()


def test_a_fault_is_tried_again_and_ends_the_batch_after_five(
    scripted: BatchApi, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(run, "check_input", fail)
    batch = scripted.create(LINES)
    for number in range(1, leases.MAX_CRASHES + 1):
        wait_until(lambda number=number: Batch.objects.filter(num_crashes=number).exists() and not runner._runs)
        assert scripted.get(batch)["status"] == "validating"
        make_stale()
        runner.start_due()
    failed = scripted.wait_for(batch, "failed")
    assert failed["errors"]["data"][0]["code"] == "internal_error"
    assert "a fault of ours" in caplog.text
    assert "fault of ours" not in str(failed)


def test_an_input_that_is_gone_fails_the_batch(scripted: BatchApi, worker: ScriptedWorker) -> None:
    batch = run_half(scripted, worker)
    runner.stop()
    for name in get_storage().listdir("")[1]:
        get_storage().delete(name)
    runner.start_due()
    failed = scripted.wait_for(batch, "failed")
    assert failed["errors"]["data"][0]["code"] == "input_file_not_found"
    wait_for_settled_rows(4)


def test_batches_share_the_slots_line_by_line(scripted: BatchApi, worker: ScriptedWorker) -> None:
    order: list[str] = []
    first_has_come = threading.Event()

    def answer(message: Generate) -> Answer:
        order.append((message.messages or [])[0]["content"])
        first_has_come.set()
        return Answer.of("a", hold_after=0 if len(order) == 1 else None)

    worker.answer = answer
    with override_settings(BATCH_CONCURRENCY=1):
        long = scripted.create([make_line(f"long {number}") for number in range(6)])
        assert first_has_come.wait(30)
        short = scripted.create([make_line(f"short {number}") for number in range(2)])
        wait_until(lambda: Batch.objects.filter(status=BatchStatus.IN_PROGRESS).count() == 2)
        worker.release()
        for batch in (long, short):
            scripted.wait_for(batch, "completed")
    assert order.index("short 1") < order.index("long 4")
    wait_for_settled_rows(8)
