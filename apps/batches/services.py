"""Batches as their owners see them: created, read, cancelled, described. Blocking.

The only way to a batch from outside. It belongs to a person in a team: to everybody else it does not exist.
"""

import logging
import re
from datetime import datetime, timedelta
from typing import Any

import msgspec
from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from kombu.exceptions import OperationalError

from apps.accounts.caller import Caller
from apps.accounts.models import Team
from apps.batches.models import LIVE, Batch, BatchStatus
from apps.batches.schemas import BatchBody
from apps.core.errors import Conflict, InvalidRequest, NotFound, RateLimited
from apps.core.http import encode_json
from apps.core.ids import new_batch_id
from apps.files.models import Purpose, StoredFile
from apps.files.services import access_file

COMPLETION_WINDOW = timedelta(hours=24)
_ID = re.compile(r"batch_[0-9a-f]{24}")
_RETRY_AFTER_S = 60.0
_CANCELLABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)

logger = logging.getLogger(__name__)


def create_batch(caller: Caller, body: BatchBody) -> Batch:
    """Raises InvalidRequest where the file is not there, not the caller's, or not for a batch, and RateLimited where
    too many of the team's have not ended."""
    try:
        file = access_file(caller, body.input_file_id)
    except NotFound as error:
        raise InvalidRequest(error.message, param="input_file_id") from None
    if file.purpose != Purpose.BATCH:
        message = f"The purpose of the file '{file.pk}' is {file.purpose}; it must be batch."
        raise InvalidRequest(message, param="input_file_id")
    now = timezone.now()
    with transaction.atomic():
        if not StoredFile.objects.filter(pk=file.pk).update(is_held=True):
            raise InvalidRequest(f"There is no file with the id '{file.pk}'.", param="input_file_id")
        _check_room(caller.team_id)
        batch = Batch.objects.create(
            id=new_batch_id(),
            user_id=caller.user_id,
            team_id=caller.team_id,
            key_id=caller.key_id,
            endpoint=body.endpoint,
            input_file_id=file.pk,
            output_expires_after_s=body.output_expires_after.seconds if body.output_expires_after else None,
            metadata=encode_json(body.metadata).decode(),
            created_at=now,
            expires_at=now + COMPLETION_WINDOW,
        )
        transaction.on_commit(_send_start)
    return batch


def list_batches(caller: Caller) -> QuerySet[Batch]:
    """The caller's own."""
    return Batch.objects.filter(user_id=caller.user_id, team_id=caller.team_id)


def access_batch(caller: Caller, batch_id: str) -> Batch:
    """The caller's own batch. Raises NotFound for another's, exactly as for one that does not exist."""
    # A text that cannot be an id, with a NUL for one, does not reach the database.
    batch = list_batches(caller).filter(pk=batch_id).first() if _ID.fullmatch(batch_id) else None
    if batch is None:
        raise NotFound(f"There is no batch with the id '{batch_id}'.")
    return batch


def cancel_batch(batch: Batch) -> Batch:
    """Have it end soon, with what was answered so far. Again: no change. Raises Conflict for one that has ended."""
    now = timezone.now()
    live = Batch.objects.filter(pk=batch.pk, status__in=_CANCELLABLE)
    was_live = live.update(status=BatchStatus.CANCELLING, cancelling_at=now)
    batch.refresh_from_db()
    if was_live:
        transaction.on_commit(_send_start)  # nobody may have taken it up yet
    elif batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
        raise Conflict(f"A batch that is {batch.status} cannot be cancelled.")
    return batch


def describe_batch(batch: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    errors = msgspec.json.decode(batch.errors)
    return {
        "id": batch.pk,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model_name or None,
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "created_at": _get_unix_time(batch.created_at),
        "in_progress_at": _get_unix_time(batch.in_progress_at),
        "expires_at": _get_unix_time(batch.expires_at),
        "finalizing_at": _get_unix_time(batch.finalizing_at),
        "completed_at": _get_end(batch, BatchStatus.COMPLETED),
        "failed_at": _get_end(batch, BatchStatus.FAILED),
        "expired_at": _get_end(batch, BatchStatus.EXPIRED),
        "cancelling_at": _get_unix_time(batch.cancelling_at),
        "cancelled_at": _get_end(batch, BatchStatus.CANCELLED),
        "request_counts": {"total": batch.num_total, "completed": batch.num_completed, "failed": batch.num_failed},
        "usage": {
            "input_tokens": batch.input_tokens,
            "input_tokens_details": {"cached_tokens": batch.cached_tokens},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
            "total_tokens": batch.input_tokens + batch.output_tokens,
        },
        "metadata": msgspec.json.decode(batch.metadata),
    }


def _check_room(team_id: int) -> None:
    """Raises RateLimited. Within a transaction: of two batches that come at once one waits."""
    Team.objects.select_for_update().get(pk=team_id)
    limit = settings.MAX_OPEN_BATCHES
    if Batch.objects.filter(team_id=team_id, status__in=LIVE).count() >= limit:
        message = f"{limit} batches of your team have not ended: there can be no more. Wait for one, or cancel one."
        raise RateLimited(message, code="too_many_open_batches", retry_after_s=_RETRY_AFTER_S)


def _send_start() -> None:
    try:  # by name: `tasks` imports what imports this module
        current_app.send_task("batches.start_due", queue="batches", expires=60)
    except OperationalError:
        logger.exception("the broker does not answer: the clock's next message starts the batch")


def _get_end(batch: Batch, status: BatchStatus) -> int | None:
    return _get_unix_time(batch.ended_at) if batch.status == status else None


def _get_unix_time(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
