"""What keeps the counters, as the rest of the app sees it."""

import asyncio
from typing import Protocol

from apps.quotas.counters import Ask, BudgetWarning, Counter, Need, Verdict

TIMEOUT_S = 8.0  # of one question: beyond it the store counts as away


class StoreAway(Exception):
    """Nobody can say what is in use."""


class Store(Protocol):
    """Counters and holds, shared by all processes of the installation."""

    async def reserve(self, ask: Ask) -> Verdict:
        """Decide and write in one step. Raises StoreAway within about TIMEOUT_S."""

    def settle(self, hold_id: str, used: Need, loop: asyncio.AbstractEventLoop) -> None:
        """Have the hold settled soon, after what was asked before. Never blocks, never raises.

        What fails is settled by the reaper later. `loop`: that of the request.
        """

    def settle_now(self, hold_id: str, used: Need) -> list[BudgetWarning]:
        """Blocking. A hold that is not there is settled. Raises StoreAway."""

    def list_holds(self, older_than_s: float) -> dict[str, float]:
        """Ages in seconds by id. Blocking. Raises StoreAway."""

    def read_counters(self, names: list[str]) -> dict[str, Counter]:
        """Those that exist. Blocking. Raises StoreAway."""

    async def close(self) -> None:
        """Settle what is to be settled, and hang up on this event loop."""
