"""Counters in the database, for installations without Redis. Knows no rule of counting.

Whatever is asked while a transaction runs is answered by the next one, all together: one row lock and one commit for
many requests. SQLite transactions begin IMMEDIATE and PostgreSQL's lock their rows, so several processes are exact.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import msgspec
from django.db import DatabaseError, transaction
from django.utils import timezone

from apps.core.db import run_db, submit_db
from apps.quotas.counters import Ask, BudgetWarning, Counter, Need, Share, Verdict, reserve
from apps.quotas.models import QuotaCounter, QuotaHold
from apps.quotas.stores.base import TIMEOUT_S, StoreAway
from apps.quotas.warnings import send_warnings

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_decode_counter = msgspec.json.Decoder(Counter).decode
_decode_shares = msgspec.json.Decoder(list[Share]).decode


class _Reserving(NamedTuple):
    ask: Ask
    answer: "asyncio.Future[Verdict]"

    @property
    def hold_id(self) -> str:
        return self.ask.id


class _Settling(NamedTuple):
    hold_id: str
    used: Need


class DatabaseStore:
    """One for the process, used from any event loop."""

    def __init__(self) -> None:
        self._pending: list[_Reserving | _Settling] = []
        self._lock = threading.Lock()
        self._is_working = False

    async def reserve(self, ask: Ask) -> Verdict:
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._put(_Reserving(ask, answer))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise StoreAway from None

    def settle(self, hold_id: str, used: Need, loop: asyncio.AbstractEventLoop) -> None:
        self._put(_Settling(hold_id, used))

    def settle_now(self, hold_id: str, used: Need) -> list[BudgetWarning]:
        with _explaining():
            return _Transaction().run([_Settling(hold_id, used)])

    def list_holds(self, older_than_s: float) -> dict[str, float]:
        now = timezone.now()
        with _explaining():
            rows = QuotaHold.objects.filter(created_at__lt=now - timedelta(seconds=older_than_s))
            return {row.id: (now - row.created_at).total_seconds() for row in rows.defer("state")}

    def read_counters(self, names: list[str]) -> dict[str, Counter]:
        with _explaining():
            return {row.name: _decode_counter(row.state) for row in QuotaCounter.objects.filter(pk__in=names)}

    async def close(self) -> None:
        await run_db(self._work)

    def _put(self, asked: _Reserving | _Settling) -> None:
        with self._lock:
            self._pending.append(asked)
            if self._is_working:
                return
            self._is_working = True
        submit_db(self._work)

    def _work(self) -> None:
        """On a database thread: until nothing is pending."""
        while True:
            with self._lock:
                batch, self._pending = self._pending, []
                if not batch:
                    self._is_working = False
                    return
            done = _Transaction()
            try:
                warnings = done.run(batch)
            except Exception:  # the thread's boundary: whoever waits is told, holds are left to the reaper
                logger.exception("quotas of %d requests could not be counted", len(batch))
                done.verdicts.clear()
            else:
                send_warnings(warnings)
            for asked in batch:
                if isinstance(asked, _Reserving):
                    _answer(asked, done.verdicts.get(id(asked)))


class _Transaction:
    """Everything that was asked at one time, in order."""

    def __init__(self) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self._warnings: list[BudgetWarning] = []

    def run(self, batch: list[_Reserving] | list[_Settling] | list[_Reserving | _Settling]) -> list[BudgetWarning]:
        """Raises DatabaseError, and then nothing is written."""
        with transaction.atomic():
            held = QuotaHold.objects.select_for_update().filter(pk__in={asked.hold_id for asked in batch})
            self._holds = {row.id: _decode_shares(row.state) for row in held.order_by("pk")}
            stored = set(self._holds)
            names = {claim.counter for asked in batch if isinstance(asked, _Reserving) for claim in asked.ask.claims}
            self._counters = _lock_counters(names | {share.counter for hold in self._holds.values() for share in hold})
            changed = [name for asked in batch for name in self._apply(asked)]
            self._write(set(changed), stored, {asked.hold_id for asked in batch})
        return self._warnings

    def _apply(self, asked: "_Reserving | _Settling") -> list[str]:
        """Which counters have changed."""
        if isinstance(asked, _Reserving):
            shares = self._holds.setdefault(asked.hold_id, [])
            self.verdicts[id(asked)] = reserve(self._counters, asked.ask, shares, time.time())
            return [claim.counter for claim in asked.ask.claims]
        shares = self._holds.pop(asked.hold_id, [])
        for share in shares:
            if warning := self._counters[share.counter].settle(share, asked.used):
                self._warnings.append(warning)
        return [share.counter for share in shares]

    def _write(self, changed: set[str], stored: set[str], touched: set[str]) -> None:
        rows = [QuotaCounter(name=name, state=_encode(self._counters[name]).decode()) for name in sorted(changed)]
        QuotaCounter.objects.bulk_update(rows, ["state"])
        holds = [
            QuotaHold(id=name, state=_encode(self._holds[name]).decode()) for name in touched if self._holds.get(name)
        ]
        QuotaHold.objects.bulk_create(holds, update_conflicts=True, unique_fields=["id"], update_fields=["state"])
        QuotaHold.objects.filter(pk__in=[name for name in stored if not self._holds.get(name)]).delete()


def _lock_counters(names: set[str]) -> dict[str, Counter]:
    rows = QuotaCounter.objects.select_for_update().filter(pk__in=names).order_by("pk")
    known = list(rows)
    if missing := names - {row.name for row in known}:
        empty = _encode(Counter()).decode()
        new = [QuotaCounter(name=name, state=empty) for name in sorted(missing)]
        QuotaCounter.objects.bulk_create(new, ignore_conflicts=True)  # another process may make the same
        known = list(rows.all())
    return {row.name: _decode_counter(row.state) for row in known}


def _answer(asked: _Reserving, verdict: Verdict | None) -> None:
    def tell() -> None:
        if asked.answer.done():
            return
        if verdict is None:
            asked.answer.set_exception(StoreAway())
        else:
            asked.answer.set_result(verdict)

    with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits any more
        asked.answer.get_loop().call_soon_threadsafe(tell)


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise StoreAway from error
