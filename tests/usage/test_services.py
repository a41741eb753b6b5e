"""The sweeper: rows of a process that is gone are settled from the counts it last wrote."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.services import OWNER_GONE_AFTER_S, sweep
from apps.usage.tasks import sweep_usage

pytestmark = pytest.mark.django_db


def make_row(request_id: str, *, silent_s: float, **fields: object) -> UsageRecord:
    heartbeat_at = timezone.now() - timedelta(seconds=silent_s)
    return UsageRecord.objects.create(
        id=request_id, model_name="m", endpoint="test", heartbeat_at=heartbeat_at, **fields
    )


def test_row_without_heartbeat_is_lost_with_its_last_counts() -> None:
    row = make_row("req-1", silent_s=OWNER_GONE_AFTER_S + 1, completion_tokens=17, prompt_tokens=4)
    assert sweep() == 1
    swept = UsageRecord.objects.get(pk="req-1")
    assert (swept.status, swept.completion_tokens, swept.prompt_tokens) == (UsageStatus.LOST, 17, 4)
    assert swept.finished_at == row.heartbeat_at
    assert sweep() == 0


def test_row_whose_owner_lives_stays_open() -> None:
    make_row("req-1", silent_s=OWNER_GONE_AFTER_S - 5)
    assert sweep() == 0
    assert UsageRecord.objects.get(pk="req-1").status == UsageStatus.OPEN


@pytest.mark.parametrize("status", [UsageStatus.OK, UsageStatus.CANCELLED, UsageStatus.ERROR])
def test_settled_row_is_left_alone(status: UsageStatus) -> None:
    make_row("req-1", silent_s=10_000, status=status)
    assert sweep() == 0
    assert UsageRecord.objects.get(pk="req-1").status == status


def test_task_sweeps() -> None:
    make_row("req-1", silent_s=10_000)
    sweep_usage()
    assert UsageRecord.objects.get(pk="req-1").status == UsageStatus.LOST
