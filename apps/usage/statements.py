"""The ledger's one write as a prepared statement: it runs for every request, where the ORM's cost shows.

Opening a row, counting on and ending it are the same statement: the entry as it is now, written over an open row
or as a new one. So it can be repeated safely, and what has ended stays as it is. Many rows go in one statement:
every statement hands the interpreter lock back and forth, and the event loop pays for that.
Knows the table; not when or by which thread it is written.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from apps.accounts.models import APIKey, Team, User
from apps.usage.entry import Entry
from apps.usage.models import UsageRecord, UsageStatus

_MAX_ROWS = 250  # a statement: SQLite takes 32,766 values in one
_NUM_COLUMNS = 24
_INSERT = """
INSERT INTO usage_usagerecord (
    id, user_id, team_id, api_key_id, model_name, revision, endpoint, streamed, created_at, owner, heartbeat_at,
    status, error_code, finish_reason, replica_id, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens,
    queue_s, ttft_s, duration_s, device_s, finished_at
) VALUES """
_ROW = "(" + ", ".join(["%s"] * _NUM_COLUMNS) + ")"
_OVER_OPEN_ROWS = """
ON CONFLICT (id) DO UPDATE SET
    revision = excluded.revision, heartbeat_at = excluded.heartbeat_at, status = excluded.status,
    error_code = excluded.error_code, finish_reason = excluded.finish_reason, replica_id = excluded.replica_id,
    prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
    completion_tokens = excluded.completion_tokens, reasoning_tokens = excluded.reasoning_tokens,
    queue_s = excluded.queue_s, ttft_s = excluded.ttft_s, duration_s = excluded.duration_s,
    device_s = excluded.device_s, finished_at = excluded.finished_at
WHERE usage_usagerecord.status = 'open'
"""


def write_entries(entries: Sequence[Entry], owner: str) -> None:
    """All of these as they are now, in one transaction; each at most once. Raises django.db.Error."""
    adapt = connection.ops.adapt_datetimefield_value
    now = adapt(timezone.now())
    rows = [_make_row(entry, owner, now, adapt) for entry in entries]
    try:
        with transaction.atomic():
            for start in range(0, len(rows), _MAX_ROWS):
                _write(rows[start : start + _MAX_ROWS])
    except IntegrityError:
        # Somebody named in these rows was deleted meanwhile; one such row must not hold back the others.
        for row in rows:
            _write_one(row)


def write_heartbeat(owner: str) -> None:
    """Say that this process still holds its open rows."""
    UsageRecord.objects.filter(owner=owner, status=UsageStatus.OPEN).update(heartbeat_at=timezone.now())


def _write(rows: list[list[Any]]) -> None:
    with connection.cursor() as cursor:
        values = ", ".join([_ROW] * len(rows))
        cursor.execute(_INSERT + values + _OVER_OPEN_ROWS, [value for row in rows for value in row])


def _write_one(row: list[Any]) -> None:
    try:
        with transaction.atomic():
            _write([row])
    except IntegrityError:
        for position, model in ((1, User), (2, Team), (3, APIKey)):
            if not model._default_manager.filter(pk=row[position]).exists():
                row[position] = None
        with transaction.atomic():
            _write([row])


def _make_row(entry: Entry, owner: str, now: Any, adapt: Callable[[datetime | None], Any]) -> list[Any]:
    # The status first: the event loop sets it last, so that a row that says "ended" holds all of the end.
    status = entry.status.value
    return [
        entry.id,
        entry.caller.user_id,
        entry.caller.team_id,
        entry.caller.key_id,
        entry.model_name,
        entry.revision,
        entry.endpoint,
        entry.streamed,
        adapt(entry.created_at),
        owner,
        now,
        status,
        entry.error_code,
        entry.finish_reason,
        entry.replica_id and entry.replica_id.replace("-", ""),  # SQLite holds the digits alone, PostgreSQL reads them
        entry.prompt_tokens,
        entry.cached_tokens,
        entry.completion_tokens,
        entry.reasoning_tokens,
        entry.queue_s,
        entry.ttft_s,
        entry.duration_s,
        entry.device_s,
        adapt(entry.finished_at),
    ]
