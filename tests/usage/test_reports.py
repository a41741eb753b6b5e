"""Sums over the ledger."""

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from apps.accounts.models import Team
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.reports import Totals, by_day, by_model, recent, totals
from tests.factories import make_team, make_user

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def make_row(request_id: str, **fields: object) -> UsageRecord:
    values = {
        "model_name": "m",
        "endpoint": "test",
        "status": UsageStatus.OK,
        "created_at": NOON,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 3,
        "device_s": 0.5,
    }
    return UsageRecord.objects.create(id=request_id, **{**values, **fields})


def test_totals_count_every_request_and_its_failures() -> None:
    make_row("a")
    make_row("b", status=UsageStatus.CANCELLED)
    make_row("c", status=UsageStatus.ERROR)
    make_row("d", status=UsageStatus.LOST)
    assert totals(LONG_AGO) == Totals(4, 2, 40, 16, 12, 2.0)


@pytest.mark.parametrize("code", ["context_length_exceeded", "invalid_request_error", "unsupported_parameter"])
def test_what_a_client_did_wrong_is_no_failure(code: str) -> None:
    make_row("a", status=UsageStatus.ERROR, error_code=code)
    make_row("b", status=UsageStatus.ERROR, error_code="internal_error")
    counted = totals(LONG_AGO)
    assert (counted.num_requests, counted.num_failed) == (2, 1)


def test_totals_of_nothing_are_zero() -> None:
    assert totals(LONG_AGO) == Totals(0, 0, 0, 0, 0, 0.0)


def test_totals_are_bounded_by_time_team_and_user() -> None:
    team = make_team()
    user = make_user(team=team)
    make_row("old", created_at=NOON - timedelta(days=2), team=team, user=user)
    make_row("mine", team=team, user=user)
    make_row("team", team=team)
    make_row("other")
    assert totals(NOON).num_requests == 3
    assert totals(NOON, team=team).num_requests == 2
    assert totals(NOON, team=team, user=user).num_requests == 1
    assert totals(NOON, team=Team(pk=999_999)).num_requests == 0


def test_by_day_is_in_order_without_empty_days() -> None:
    make_row("a")
    make_row("b", created_at=NOON + timedelta(days=2))
    make_row("c", created_at=NOON + timedelta(days=2, hours=1))
    days = by_day(LONG_AGO)
    assert [(day.day.isoformat(), day.totals.num_requests) for day in days] == [("2026-03-01", 1), ("2026-03-03", 2)]


def test_by_model_puts_the_busiest_first() -> None:
    make_row("a", model_name="small", completion_tokens=1)
    make_row("b", model_name="big", completion_tokens=100)
    make_row("c", model_name="small", completion_tokens=1)
    rows = by_model(LONG_AGO)
    assert [(row.model_name, row.totals.num_requests, row.totals.completion_tokens) for row in rows] == [
        ("big", 1, 100),
        ("small", 2, 2),
    ]


def test_recent_is_newest_first_and_limited() -> None:
    for hours in range(3):
        make_row(f"r{hours}", created_at=timezone.now() - timedelta(hours=hours))
    assert [row.id for row in recent(2)] == ["r0", "r1"]
