"""The database's side of a batch that is worked on: taken by one process at a time, written on, ended. Blocking.

The process that works on a batch owns it, and says so every few seconds. What it writes counts only while it does: a
batch whose owner was silent for STALE_AFTER may be taken by another; the first, should it live, writes nothing more.
"""

from datetime import timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from apps.batches.lines import Problem, Report
from apps.batches.models import LIVE, Batch, BatchStatus, FinishedLine
from apps.batches.outcomes import Outcome, add_tokens
from apps.core.http import encode_json
from apps.files.models import Purpose, StoredFile
from apps.files.services import create_file

STALE_AFTER = timedelta(seconds=20)  # ten beats of a run
MAX_CRASHES = 5


class Result(NamedTuple):
    """A file that a batch leaves: its content is in the storage."""

    storage_name: str
    num_bytes: int


def list_due() -> list[str]:
    """Batches that nobody works on, the oldest first."""
    return list(Batch.objects.filter(_is_free(), status__in=LIVE).order_by("created_at").values_list("pk", flat=True))


def take(batch_id: str, owner: str) -> Batch | None:
    """Become the owner. None where somebody else has come first."""
    free = Batch.objects.filter(_is_free(), pk=batch_id, status__in=LIVE)
    return Batch.objects.get(pk=batch_id) if free.update(owner=owner, heartbeat_at=timezone.now()) else None


def beat(batch_id: str, owner: str) -> Batch | None:
    """Say that the owner lives; the batch as it is now. None: it has another owner, or is gone."""
    return Batch.objects.filter(pk=batch_id).first() if _update(batch_id, owner, heartbeat_at=timezone.now()) else None


def let_go(batch_id: str, owner: str, *, has_crashed: bool = False) -> None:
    """Own it no longer: another may go on, at once, or after a while where it was a failure."""
    if has_crashed:
        _update(batch_id, owner, num_crashes=F("num_crashes") + 1, heartbeat_at=timezone.now())
    else:
        _find(batch_id, owner).update(owner="", heartbeat_at=None)


def begin(batch_id: str, owner: str, report: Report) -> bool:
    """The input is valid: its lines may be run. False: it was cancelled meanwhile, or is not the owner's any more."""
    num_begun = (
        _find(batch_id, owner)
        .filter(status=BatchStatus.VALIDATING)
        .update(
            status=BatchStatus.IN_PROGRESS,
            in_progress_at=timezone.now(),
            num_total=report.num_lines,
            model_name=report.model,
        )
    )
    return bool(num_begun)


def begin_finalizing(batch_id: str, owner: str) -> None:
    """All lines have ended; from now on it cannot be cancelled, unless it was in the last moment."""
    running = _find(batch_id, owner).filter(status=BatchStatus.IN_PROGRESS)
    running.update(status=BatchStatus.FINALIZING, finalizing_at=timezone.now())


def list_finished_numbers(batch_id: str) -> set[int]:
    """Lines that need not be run."""
    return set(FinishedLine.objects.filter(batch_id=batch_id).values_list("number", flat=True))


def list_finished_lines(batch_id: str, after: int, limit: int) -> list[FinishedLine]:
    """In the order of the input, those after this number."""
    return list(FinishedLine.objects.filter(batch_id=batch_id, number__gt=after).order_by("number")[:limit])


def add_outcomes(batch_id: str, owner: str, outcomes: list[Outcome]) -> bool:
    """Keep how these lines ended, all of them or none. False: the batch is not the owner's any more."""
    num_ok, tokens = sum(outcome.is_ok for outcome in outcomes), add_tokens(outcomes)
    with transaction.atomic():
        is_owner = _update(
            batch_id,
            owner,
            heartbeat_at=timezone.now(),
            num_completed=F("num_completed") + num_ok,
            num_failed=F("num_failed") + len(outcomes) - num_ok,
            input_tokens=F("input_tokens") + tokens.input,
            cached_tokens=F("cached_tokens") + tokens.cached,
            output_tokens=F("output_tokens") + tokens.output,
            reasoning_tokens=F("reasoning_tokens") + tokens.reasoning,
        )
        if is_owner:
            FinishedLine.objects.bulk_create(
                FinishedLine(
                    batch_id=batch_id, number=outcome.number, is_ok=outcome.is_ok, output=outcome.output.decode()
                )
                for outcome in outcomes
            )
    return is_owner


def end(
    batch: Batch, status: BatchStatus, *, output: Result | None, errors: Result | None, problems: list[Problem]
) -> bool:
    """The end, with its files. False: the batch was not the owner's any more, and nothing was written."""
    with transaction.atomic():
        ended = _find(batch.pk, batch.owner)
        if not ended.update(status=status, ended_at=timezone.now(), errors=encode_json(problems).decode()):
            return False
        ended.update(
            output_file_id=_create_file(batch, output, "output"),
            error_file_id=_create_file(batch, errors, "error"),
        )
        ended.update(owner="")
        FinishedLine.objects.filter(batch_id=batch.pk).delete()
        _let_go_of_input(batch.input_file_id)
    return True


def _let_go_of_input(file_id: str) -> None:
    """Unless another batch reads it too. Locked first: a batch that is being created holds the row's lock."""
    if StoredFile.objects.select_for_update().filter(pk=file_id).exists():
        is_needed = Batch.objects.filter(input_file_id=file_id, status__in=LIVE).exists()
        StoredFile.objects.filter(pk=file_id).update(is_held=is_needed)


def _create_file(batch: Batch, result: Result | None, kind: str) -> str:
    if result is None:
        return ""
    file = create_file(
        user_id=batch.user_id,
        team_id=batch.team_id,
        filename=f"{batch.pk}_{kind}.jsonl",
        purpose=Purpose.BATCH_OUTPUT,
        num_bytes=result.num_bytes,
        storage_name=result.storage_name,
        expires_after_s=batch.output_expires_after_s,
    )
    return file.pk


def _is_free() -> Q:
    return Q(owner="") | Q(heartbeat_at__lt=timezone.now() - STALE_AFTER)


def _find(batch_id: str, owner: str) -> QuerySet[Batch]:
    return Batch.objects.filter(pk=batch_id, owner=owner)


def _update(batch_id: str, owner: str, **values: object) -> bool:
    return bool(_find(batch_id, owner).update(**values))
