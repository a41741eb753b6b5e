"""The two files that a batch leaves: what was answered, and what was not. Written to disk, then into the storage."""

import asyncio
import tempfile
from collections.abc import Iterable
from itertools import islice
from types import TracebackType
from typing import IO, Self

from django.conf import settings
from django.core.files.base import File

from apps.batches.leases import Result, list_finished_lines, list_finished_numbers
from apps.batches.lines import InputLine, read_lines
from apps.batches.models import Batch, BatchStatus
from apps.batches.outcomes import encode_unanswered
from apps.core.db import run_db
from apps.files.services import store_content

_LINES_AT_ONCE = 200
# What is said of lines that were not run: OpenAI's codes.
_REASONS = {
    BatchStatus.EXPIRED: ("batch_expired", "This request was not run before the completion window ended."),
    BatchStatus.CANCELLED: ("batch_cancelled", "This request was not run before the batch was cancelled."),
}


class ResultFiles:
    """Both files while they are written. A context manager: leaving removes what is on disk."""

    def __init__(self) -> None:
        self._answers = _open_draft()
        self._errors = _open_draft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._answers.close()
        self._errors.close()

    async def write(self, batch: Batch, status: BatchStatus, source: IO[bytes]) -> None:
        """All lines of the batch: those that have ended, then those of the input that never will."""
        after = 0
        while lines := await run_db(list_finished_lines, batch.pk, after, _LINES_AT_ONCE):
            after = lines[-1].number
            answers = [line.output for line in lines if line.is_ok]
            errors = [line.output for line in lines if not line.is_ok]
            await asyncio.to_thread(self._append, answers, errors)
        if status in _REASONS and batch.in_progress_at is not None:
            finished = await run_db(list_finished_numbers, batch.pk)
            unanswered = (line for line in read_lines(source) if line.number not in finished)
            await asyncio.to_thread(self._append_unanswered, unanswered, *_REASONS[status])

    async def store(self) -> tuple[Result | None, Result | None]:
        """Answers and errors in the storage; None where there are none."""
        answers = await asyncio.to_thread(_store, self._answers)
        return answers, await asyncio.to_thread(_store, self._errors)

    def _append(self, answers: Iterable[str], errors: Iterable[str]) -> None:
        self._answers.writelines(f"{line}\n".encode() for line in answers)
        self._errors.writelines(f"{line}\n".encode() for line in errors)

    def _append_unanswered(self, lines: Iterable[InputLine], code: str, message: str) -> None:
        while page := list(islice(lines, _LINES_AT_ONCE)):
            self._append([], [encode_unanswered(line.custom_id, code, message).decode() for line in page])


def _open_draft() -> IO[bytes]:
    return tempfile.TemporaryFile(dir=settings.FILE_UPLOAD_TEMP_DIR)


def _store(draft: IO[bytes]) -> Result | None:
    num_bytes = draft.tell()
    if not num_bytes:
        return None
    draft.seek(0)
    return Result(store_content(File(draft)), num_bytes)
