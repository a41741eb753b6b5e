"""Admission: what a request may come to is held before it runs, and what it came to is settled when it has ended.

Knows no HTTP and no engine. A caller without limits costs one look into a dictionary.
"""

import asyncio
from types import TracebackType
from typing import Self

from django.conf import settings

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import Unavailable
from apps.quotas.counters import Ask, Need, Verdict
from apps.quotas.prices import FREE, TokenPrice, measure
from apps.quotas.refusals import make_refusal, tell_standings
from apps.quotas.rules import Rule, rule_book
from apps.quotas.spent import find_spent
from apps.quotas.stores.base import StoreAway
from apps.quotas.stores.choice import get_store
from apps.registry.directory import ModelSpec
from apps.usage.entry import Entry

AWAY_RETRY_S = 5.0


class Permit:
    """One request's hold on everything that it counts for. Used by one task, as a context manager.

    Left before `settle`, it counts as if the request had never been.
    """

    def __init__(self, request_id: str, caller: Caller, rules: tuple[Rule, ...], price: TokenPrice) -> None:
        self._id = request_id
        self._caller = caller
        self._rules = rules
        self._price = price
        self._claims = [rule.make_claim(caller.user_id) for rule in rules]
        self._loop = asyncio.get_running_loop()
        self._may_hold = False
        self._is_left_alone = False
        self.counts_tokens = any(claim.counts_tokens for claim in self._claims)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    async def enter(self) -> None:
        """Hold the request itself. Raises RateLimited, or Unavailable where nobody can say."""
        await self._hold(Need(requests=1))

    async def hold_tokens(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Hold as many as the request can come to. Raises as `enter` does."""
        price = self._price.bound(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        await self._hold(Need(tokens=prompt_tokens + completion_tokens, nano=price))

    def release(self) -> None:
        """Give back everything, unless somebody else settles it. Never blocks."""
        if not self._is_left_alone:
            self._settle(Need())

    def settle(self, entry: Entry) -> None:
        """Count what the request came to, as the ledger has it. Never blocks."""
        self._settle(measure(entry, self._price))

    def hand_over(self) -> None:
        """From here on somebody calls `settle`, whatever happens."""
        self._is_left_alone = True

    def _settle(self, used: Need) -> None:
        if self._may_hold:
            self._may_hold = False
            get_store().settle(self._id, used, self._loop)

    async def _hold(self, need: Need) -> None:
        held_before, self._may_hold = self._may_hold, True  # also when the answer is not waited for
        try:
            verdict = await self._ask(need)
        except StoreAway:
            if settings.QUOTAS_WHEN_AWAY == "allow":
                return
            message = "Limits cannot be checked at the moment. Try again later."
            raise Unavailable(message, code="quotas_unavailable", retry_after_s=AWAY_RETRY_S) from None
        tell_standings(self._claims, verdict.standings)
        if (refusal := verdict.refusal) is not None:
            self._may_hold = held_before
            raise make_refusal(self._rules[refusal.position], self._claims[refusal.position], need, refusal)

    async def _ask(self, need: Need) -> Verdict:
        verdict = await get_store().reserve(Ask(self._id, self._claims, need))
        if verdict.unseeded:
            quota_ids = [self._rules[position].quota_id for position in verdict.unseeded]
            seeds = await run_db(find_spent, quota_ids, self._caller.user_id)
            verdict = await get_store().reserve(Ask(self._id, self._claims, need, seeds))
        return verdict


async def admit(request_id: str, caller: Caller, model: ModelSpec) -> Permit | None:
    """A permit for a request that limits apply to, and that they let in. Raises RateLimited or Unavailable."""
    book = rule_book.peek() or await rule_book.get()
    rules = book.find(caller, model.id)
    if not rules:
        return None
    permit = Permit(request_id, caller, rules, book.prices.get(model.id, FREE))
    try:
        await permit.enter()
    except BaseException:
        permit.release()  # a client that leaves while it is asked may hold already
        raise
    return permit


async def shutdown() -> None:
    """Settle what is still to be settled. Called when the server stops, after its last request."""
    await get_store().close()
