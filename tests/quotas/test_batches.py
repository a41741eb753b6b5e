"""Lines of batches and limits: they wait where that helps."""

import pytest

from apps.quotas import refusals
from apps.usage.models import UsageRecord
from tests.api.batch_fixtures import BatchApi, batches, make_line, scripted
from tests.api.conftest import wait_for_settled_rows
from tests.quotas.conftest import limit

__all__ = ["batches", "scripted"]  # fixtures


def test_lines_wait_for_a_limit_however_often_they_meet_it(scripted: BatchApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "HELD_RETRY_S", 0.05)
    limit(max_concurrent=1)
    batch = scripted.create([make_line(f"line {number}") for number in range(8)])
    ended = scripted.wait_for(batch, "completed", "failed")
    assert ended["request_counts"] == {"total": 8, "completed": 8, "failed": 0}
    assert len(wait_for_settled_rows(8)) == 8


def test_a_line_without_a_budget_ends_as_an_error(scripted: BatchApi) -> None:
    limit(budget_tokens=0)
    ended = scripted.wait_for(scripted.create([make_line("line", max_tokens=6)]), "completed", "failed")
    (line,) = scripted.read(ended["error_file_id"]).values()
    assert line["response"]["status_code"] == 429
    assert line["response"]["body"]["error"]["code"] == "insufficient_quota"
    assert not UsageRecord.objects.exists()
