"""Background work of quotas, run by Celery."""

from contextlib import suppress

from celery import shared_task

from apps.quotas.counters import BudgetWarning
from apps.quotas.notices import deliver
from apps.quotas.reaper import reap
from apps.quotas.stores.base import StoreAway


@shared_task(name="quotas.reap")
def reap_holds() -> None:
    """Settle holds whose requests are gone."""
    with suppress(StoreAway):  # the next round does it
        reap()


@shared_task(name="quotas.warn")
def warn(counter: str, period: str, spent_tokens: int, spent_nano: int) -> None:
    """Tell whoever the quota names that its budget is nearly used."""
    deliver(BudgetWarning(counter, period, spent_tokens, spent_nano))
