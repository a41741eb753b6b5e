"""One line after the other is asked of a model, many at once: each until it has an answer that is final.

Knows nothing of files or of who works on which batch.
"""

import asyncio
import logging
import time

from django.conf import settings

from apps.accounts.auth import restore_caller
from apps.accounts.caller import Caller
from apps.batches.calls import read_call
from apps.batches.lines import InputLine
from apps.batches.models import Batch
from apps.batches.outcomes import Outcome, make_outcome
from apps.core.db import run_db
from apps.core.errors import AuthenticationFailed, RateLimited, ServiceError, Unavailable
from apps.core.http import encode_error, make_internal_error
from apps.core.ids import new_request_id

# After these the same line may well be answered: no machine, a full queue, a limit. Each try has its own usage row.
_RETRIED_STATUSES = (RateLimited.status, Unavailable.status)
_FINAL_CODES = ("model_load_failed",)  # somebody has to look at it first
RETRY_DELAYS_S = (1.0, 5.0, 30.0, 120.0)

logger = logging.getLogger(__name__)


class LineRunner:
    """Runs lines of one batch. `slots` are shared by all batches of the process."""

    def __init__(self, batch: Batch, slots: asyncio.Semaphore) -> None:
        self._batch = batch
        self._slots = slots
        self._caller: Caller | None = None
        self._caller_until_s = 0.0

    async def run(self, line: InputLine) -> Outcome:
        """Its answer, or the error that remained."""
        delays_s = iter(RETRY_DELAYS_S)
        while True:
            async with self._slots:
                outcome, error = await self._attempt(line)
            if error is None or not _may_pass(error):
                return outcome
            if error.code == RateLimited.code:  # for as long as it takes: the batch itself has an end
                delay_s = error.retry_after_s or RETRY_DELAYS_S[0]
            elif (delay_s := next(delays_s, 0.0)) == 0.0:
                return outcome
            await asyncio.sleep(delay_s)

    async def _attempt(self, line: InputLine) -> tuple[Outcome, ServiceError | None]:
        request_id = new_request_id()
        error: ServiceError | None = None
        try:
            call = read_call(self._batch.endpoint, line.body, await self._get_caller())
            request_id = call.id
            body = await call.answer()
        except ServiceError as raised:
            error = raised
        except Exception:  # the line's boundary: the others go on
            logger.exception("line %d of batch %s failed", line.number, self._batch.pk)
            error = make_internal_error()
        status, body = (200, body) if error is None else (error.status, encode_error(error))
        outcome = make_outcome(line.number, line.custom_id, status=status, request_id=request_id, body=body)
        return outcome, error

    async def _get_caller(self) -> Caller:
        """Raises AuthenticationFailed once the key has ended, or the person has left the team."""
        if time.monotonic() >= self._caller_until_s:
            batch = self._batch
            self._caller = await run_db(
                restore_caller, user_id=batch.user_id, team_id=batch.team_id, key_id=batch.key_id
            )
            self._caller_until_s = time.monotonic() + settings.AUTH_CACHE_TTL_S
        if self._caller is None:
            raise AuthenticationFailed("The API key that created the batch is not valid any more.")
        return self._caller


def _may_pass(error: ServiceError) -> bool:
    return error.status in _RETRIED_STATUSES and error.code not in _FINAL_CODES and not error.is_final
