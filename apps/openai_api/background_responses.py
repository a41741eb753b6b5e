"""Background responses in the database: written on, cancelled from anywhere, and ended when their process is gone.

Blocking. A row that is final is never written again: whoever ends it first has ended it.
"""

from datetime import timedelta
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, Unavailable
from apps.core.http import encode_json
from apps.openai_api.encoders.responses_object import make_error
from apps.openai_api.models import ResponseStatus, StoredResponse
from apps.openai_api.stored_responses import access_response, add_to_conversation

STALE_AFTER = timedelta(seconds=30)  # many times the interval at which a run says that it lives
_RUNNING = (ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS)


def write_response(response: dict[str, Any]) -> None:
    """The response as it stands, unless it has ended or was deleted meanwhile.

    To one that was cancelled goes what it had said by then.
    """
    rows = _find_running(response["id"])
    if response["status"] == ResponseStatus.CANCELLED:
        rows = StoredResponse.objects.filter(pk=response["id"], status=ResponseStatus.CANCELLED)
    encoded = encode_json(response).decode()
    with transaction.atomic():
        if rows.update(status=response["status"], response=encoded, heartbeat_at=timezone.now()):
            given = StoredResponse.objects.values_list("input", flat=True).get(pk=response["id"])
            add_to_conversation(response, msgspec.json.decode(given))


def keep_alive(response_id: str) -> bool:
    """Say that somebody writes it. False: it was cancelled or deleted, and must not be written on."""
    return bool(_find_running(response_id).update(heartbeat_at=timezone.now()))


def read_response(caller: Caller, response_id: str) -> StoredResponse:
    """The caller's own response as it stands. Raises NotFound."""
    return _settle_if_stale(access_response(caller, response_id))


def cancel_response(caller: Caller, response_id: str) -> StoredResponse:
    """End a background response; one that has ended stays as it is. Raises NotFound, and InvalidRequest for others.

    The process that writes it stops when it next says that it lives.
    """
    row = read_response(caller, response_id)
    response = msgspec.json.decode(row.response)
    if not response["background"]:
        raise InvalidRequest("Only a background response can be cancelled: leave the others by hanging up.")
    return _end(row, response | {"status": ResponseStatus.CANCELLED.value})


def settle_lost() -> int:
    """End every response whose process is gone. Returns how many were looked at. Safe to run anywhere, any time."""
    rows = StoredResponse.objects.filter(status__in=_RUNNING, heartbeat_at__lt=timezone.now() - STALE_AFTER)
    return len([_settle_if_stale(row) for row in rows])


def _settle_if_stale(row: StoredResponse) -> StoredResponse:
    if row.status not in _RUNNING or row.heartbeat_at > timezone.now() - STALE_AFTER:
        return row
    error = make_error(Unavailable("The server went away while it answered. Try again."))
    return _end(row, msgspec.json.decode(row.response) | {"status": ResponseStatus.FAILED.value, "error": error})


def _end(row: StoredResponse, response: dict[str, Any]) -> StoredResponse:
    _find_running(row.pk).update(status=response["status"], response=encode_json(response).decode())
    row.refresh_from_db()
    return row


def _find_running(response_id: str) -> QuerySet[StoredResponse]:
    return StoredResponse.objects.filter(pk=response_id, status__in=_RUNNING)
