"""One run of a batch: from wherever it was left to its end, or to the moment when this process must let go of it.

Lines are run many at once and in any order; each is committed when it has ended, and never run again after that. A
run that dies in the middle leaves lines that ran and are not committed: they are run again by whoever goes on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from enum import Enum
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.files.base import File
from django.utils import timezone

from apps.batches import leases
from apps.batches.journal import Journal
from apps.batches.line_runner import LineRunner
from apps.batches.lines import InputLine, Problem, check_input, read_lines
from apps.batches.models import Batch, BatchStatus
from apps.batches.results import ResultFiles
from apps.core.db import run_db
from apps.core.errors import NotFound
from apps.core.http import INTERNAL_MESSAGE
from apps.files.models import StoredFile
from apps.files.services import discard_content, open_content

BEAT_INTERVAL_S = 2.0  # also how soon a cancellation is seen
_LINES_AT_ONCE = 16

logger = logging.getLogger(__name__)


class Stop(Enum):
    """Why a run ends before its lines do."""

    CANCELLED = BatchStatus.CANCELLED
    EXPIRED = BatchStatus.EXPIRED
    LOST = "lost"  # the batch is another's, or gone


class BatchRun:
    """Belongs to the event loop it is made on, and to the owner whose name it writes."""

    def __init__(self, batch_id: str, owner: str, slots: asyncio.Semaphore) -> None:
        self._batch_id = batch_id
        self._owner = owner
        self._slots = slots
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._journal = Journal(batch_id, owner, self._note_loss)

    async def run(self) -> None:
        """Returns when the batch has ended or is not ours any more. Cancelled, it lets go of the batch first."""
        batch = await run_db(leases.take, self._batch_id, self._owner)
        if batch is None:
            return
        beating = asyncio.create_task(self._beat())
        has_crashed = False
        try:
            await self._bring_to_an_end(batch)
        except Exception:  # the batch's boundary: the others go on
            logger.exception("batch %s was interrupted", self._batch_id)
            has_crashed = True
        finally:
            beating.cancel()
            await asyncio.gather(beating, self._journal.close(), return_exceptions=True)
            await run_db(leases.let_go, self._batch_id, self._owner, has_crashed=has_crashed)

    async def _bring_to_an_end(self, batch: Batch) -> None:
        if batch.num_crashes >= leases.MAX_CRASHES:
            return await self._fail(batch, Problem("internal_error", INTERNAL_MESSAGE))
        try:
            with await _open_input(batch) as content:
                status = await self._work_until_stopped(batch, content)
        except NotFound as error:
            return await self._fail(batch, Problem("input_file_not_found", error.message, "input_file_id"))
        if status is not None:
            await self._finish(batch, status)

    async def _work_until_stopped(self, batch: Batch, content: File) -> BatchStatus | None:
        """How the batch is to end; None where it has ended, or that is not ours to say any more."""
        self._look_at(batch)
        working = asyncio.create_task(self._work(batch, content))
        try:
            awaited: list[asyncio.Future[Any]] = [working, self._stop]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            has_ended = working.done()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        if has_ended:
            return working.result()
        await self._journal.close()
        stop = self._stop.result()
        return None if stop is Stop.LOST else BatchStatus(stop.value)

    async def _work(self, batch: Batch, content: File) -> BatchStatus | None:
        """Check the input, run the lines: how the batch is to end, None where it has failed already."""
        if batch.status == BatchStatus.VALIDATING:
            report = await asyncio.to_thread(check_input, content, batch.endpoint)
            if report.problems:
                await self._fail(batch, *report.problems)
                return None
            if not await run_db(leases.begin, batch.pk, self._owner, report):
                return BatchStatus.CANCELLED
            content.seek(0)
        if batch.status != BatchStatus.FINALIZING:
            await self._run_lines(batch, content)
            await run_db(leases.begin_finalizing, batch.pk, self._owner)
        return BatchStatus.COMPLETED

    async def _fail(self, batch: Batch, *problems: Problem) -> None:
        await run_db(leases.end, batch, BatchStatus.FAILED, output=None, errors=None, problems=list(problems))

    async def _run_lines(self, batch: Batch, content: File) -> None:
        finished = await run_db(leases.list_finished_numbers, batch.pk)
        runner = LineRunner(batch, self._slots)
        room = asyncio.Semaphore(settings.BATCH_CONCURRENCY)

        async def run(line: InputLine) -> None:
            try:
                await self._journal.add(await runner.run(line))
            finally:
                room.release()

        async with asyncio.TaskGroup() as group:
            async for line in _read(content):
                if line.number not in finished:
                    await room.acquire()
                    group.create_task(run(line))

    async def _finish(self, batch: Batch, status: BatchStatus) -> None:
        current = await run_db(leases.beat, batch.pk, self._owner)
        if current is None:
            return
        if current.status == BatchStatus.CANCELLING:  # also where that came with the last line
            status = BatchStatus.CANCELLED
        # Opened anew: a thread that was reading it when the lines were stopped may read on for a while.
        with await _open_input(batch) as content, ResultFiles() as files:
            await files.write(current, status, content)
            output, errors = await files.store()
        if not await run_db(leases.end, current, status, output=output, errors=errors, problems=[]):
            for result in (output, errors):
                if result is not None:
                    await asyncio.to_thread(discard_content, result.storage_name)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL_S)
            try:
                current = await run_db(leases.beat, self._batch_id, self._owner)
            except Exception:  # the database may come back; the lines go on in memory
                logger.exception("batch %s could not be marked", self._batch_id)
                continue
            if current is None:
                return self._note_loss()
            self._look_at(current)

    def _look_at(self, batch: Batch) -> None:
        if batch.status == BatchStatus.CANCELLING:
            self._note(Stop.CANCELLED)
        elif batch.status != BatchStatus.FINALIZING and batch.expires_at <= timezone.now():
            self._note(Stop.EXPIRED)

    def _note_loss(self) -> None:
        self._note(Stop.LOST)

    def _note(self, stop: Stop) -> None:
        if not self._stop.done():
            self._stop.set_result(stop)


async def _open_input(batch: Batch) -> File:
    file = await run_db(StoredFile.objects.filter(pk=batch.input_file_id).first)
    if file is None:
        raise NotFound(f"The file '{batch.input_file_id}' is gone.")
    return await asyncio.to_thread(open_content, file)


async def _read(content: File) -> AsyncIterator[InputLine]:
    """The lines, read off the event loop, a few at a time."""
    lines = read_lines(content)
    while page := await asyncio.to_thread(lambda: list(islice(lines, _LINES_AT_ONCE))):
        for line in page:
            yield line
