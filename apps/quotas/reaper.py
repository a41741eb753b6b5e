"""Settles holds of requests that ended without saying so: their process was killed, or the store was away.

The ledger knows how they ended; its own sweeper has ended the rows of processes that are gone. Blocking.
"""

from django.conf import settings

from apps.quotas.counters import Need
from apps.quotas.prices import FREE, load_prices_by_name, measure
from apps.quotas.stores.choice import get_store
from apps.quotas.warnings import send_warnings
from apps.usage.models import UsageRecord, UsageStatus

SETTLED_LATE_AFTER_S = 30.0  # a request that has ended settles by itself long before
ADMISSION_S = 60.0  # beside the time that a model may take to load: no row by then, no request


def reap() -> int:
    """Settle every hold that nobody else will. Returns how many. Safe to run anywhere, any time, several at once.

    Raises StoreAway.
    """
    store = get_store()
    ages = store.list_holds(SETTLED_LATE_AFTER_S)
    rows = {row.pk: row for row in UsageRecord.objects.filter(pk__in=list(ages))}
    prices = load_prices_by_name() if ages else {}
    num_settled = 0
    for hold_id, age_s in ages.items():
        row = rows.get(hold_id)
        if row is None and age_s < settings.LOAD_TIMEOUT_S + ADMISSION_S:
            continue
        if row is not None and row.status == UsageStatus.OPEN:
            continue
        used = Need() if row is None else measure(row, prices.get(row.model_name, FREE))
        send_warnings(store.settle_now(hold_id, used))
        num_settled += 1
    return num_settled
