"""Events of streams in the database: written by the process that streams, read by any, forgotten after a while.

Blocking. The only way to a kept stream. It belongs to a person in a team: to everybody else it does not exist.
"""

import re
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.errors import Gone, NotFound
from apps.openai_api.models import EventSegment, EventStream

STALE_AFTER = timedelta(seconds=30)  # many times the interval at which events are saved
PAGE_SEGMENTS = 16  # of about a second each

_ID = re.compile(r"(?:resp_|chatcmpl-)[0-9a-f]{24}")


class Page(NamedTuple):
    """The next events of a stream. `is_lost`: its process is gone, and nobody has ended it."""

    events: list[bytes]
    has_ended: bool
    is_lost: bool


def create_stream(caller: Caller, stream_id: str) -> None:
    """From now on it can be read from any process."""
    EventStream.objects.create(id=stream_id, user_id=caller.user_id, team_id=caller.team_id)


def save_events(stream_id: str, first: int, events: list[bytes], has_ended: bool) -> float | None:
    """Append events and say that the stream is being written, or that it has ended.

    Returns for how many seconds nobody has read it in another process; None: it was deleted.
    """
    now = timezone.now()
    with transaction.atomic():
        row = EventStream.objects.select_for_update().filter(pk=stream_id, ended_at=None).first()
        if row is None:
            return None
        if events:
            _add_segment(stream_id, first, events)
        row.heartbeat_at, row.ended_at = now, now if has_ended else None
        row.save(update_fields=["heartbeat_at", "ended_at"])
    return (now - row.read_at).total_seconds()


def load_events(caller: Caller, stream_id: str, position: int) -> Page:
    """Events from number `position` on, in order. Raises NotFound, and Gone when they are kept no longer."""
    if not _ID.fullmatch(stream_id):
        raise _make_not_found(stream_id)
    now = timezone.now()
    row = EventStream.objects.filter(pk=stream_id, user_id=caller.user_id, team_id=caller.team_id).first()
    if row is None:
        raise _make_not_found(stream_id)
    if row.ended_at is not None and row.ended_at < now - _get_retention():
        raise make_gone(stream_id)
    EventStream.objects.filter(pk=stream_id).update(read_at=now)
    events: list[bytes] = []
    for first, data in _list_segments(stream_id, position):
        if first > position + len(events):
            break  # saved, and not committed yet, in between
        segment = [event + b"\n\n" for event in zlib.decompress(data).split(b"\n\n")[:-1]]
        events += segment[position + len(events) - first :]
    is_whole = row.ended_at is not None and not _list_segments(stream_id, position + len(events))
    return Page(events, is_whole, _is_stale(row))


def end_lost(stream_id: str, make_events: Callable[[int], list[bytes]]) -> None:
    """End a stream whose process is gone, with the events made for this number. Who comes second changes nothing."""
    with transaction.atomic():
        row = EventStream.objects.select_for_update().filter(pk=stream_id, ended_at=None).first()
        if row is None or not _is_stale(row):
            return
        first = row.segments.aggregate(end=Max("end"))["end"] or 0
        _add_segment(stream_id, first, make_events(first))
        row.ended_at = timezone.now()
        row.save(update_fields=["ended_at"])


def delete_stream(stream_id: str) -> None:
    """Forget its events."""
    EventStream.objects.filter(pk=stream_id).delete()


def sweep_streams() -> int:
    """Forget streams that are over for long enough. Safe to run anywhere, any time."""
    return EventStream.objects.filter(heartbeat_at__lt=timezone.now() - max(_get_retention(), STALE_AFTER)).delete()[0]


def make_gone(stream_id: str) -> Gone:
    """What a reader that comes too late is told."""
    kept_s = round(settings.EVENTS_RETENTION_S)
    return Gone(f"The events of '{stream_id}' are not kept any more: they are for {kept_s} s after its end.")


def _is_stale(row: EventStream) -> bool:
    return row.ended_at is None and row.heartbeat_at < timezone.now() - STALE_AFTER


def _add_segment(stream_id: str, first: int, events: list[bytes]) -> None:
    data = zlib.compress(b"".join(events), 1)
    # A save that failed may have been written all the same: the next one begins where it did.
    EventSegment.objects.update_or_create(
        stream_id=stream_id, first=first, defaults={"end": first + len(events), "data": data}
    )


def _list_segments(stream_id: str, position: int) -> list[tuple[int, bytes]]:
    segments = EventSegment.objects.filter(stream_id=stream_id, end__gt=position).order_by("first")
    return [(first, bytes(data)) for first, data in segments.values_list("first", "data")[:PAGE_SEGMENTS]]


def _get_retention() -> timedelta:
    return timedelta(seconds=settings.EVENTS_RETENTION_S)


def _make_not_found(stream_id: str) -> NotFound:
    return NotFound(f"There is no stream with the id '{stream_id}'.")
