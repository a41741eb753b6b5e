"""What is in use of quotas now, for pages. Blocking, reads only."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from django.utils.formats import number_format
from django.utils.translation import gettext as _

from apps.quotas.counters import Counter
from apps.quotas.models import NANO, Period, Quota
from apps.quotas.rules import make_rule, name_counter, name_period
from apps.quotas.stores.base import StoreAway
from apps.quotas.stores.choice import get_store


@dataclass(frozen=True, slots=True)
class Use:
    """One limit of a quota and what is used of it. `used` None: nobody can say, or each person has their own."""

    label: str
    limit: float
    used: float | None
    decimals: int = 0

    @property
    def percent(self) -> int:
        return min(100, round(100 * (self.used or 0) / self.limit)) if self.limit else 100

    def __str__(self) -> str:
        used = "" if self.used is None else f"{number_format(self.used, self.decimals, force_grouping=True)} / "
        return f"{self.label}: {used}{number_format(self.limit, self.decimals, force_grouping=True)}"


def read_uses(quotas: Iterable[Quota], user_id: int | None = None) -> dict[int, list[Use]]:
    """By quota. `user_id`: whose share is meant where each person has their own."""
    rows = list(quotas)
    names = {
        quota.pk: name_counter(make_rule(quota).counter, user_id if quota.each_user else None)
        for quota in rows
        if user_id is not None or not quota.each_user
    }
    try:
        counters = get_store().read_counters(list(names.values())) if names else {}
    except StoreAway:
        counters, names = {}, {}
    uses = {}
    for quota in rows:
        name = names.get(quota.pk)
        uses[quota.pk] = _list(quota, None if name is None else counters.get(name, Counter()))
    return uses


def _list(quota: Quota, counter: Counter | None) -> list[Use]:
    requests = tokens = num_open = spent = money = None
    if counter is not None:
        counter.drop_old(time.time())
        requests, tokens = counter.count()
        num_open = counter.num_open
        is_current = counter.period == name_period(quota.budget_period)
        spent = counter.spent_tokens + counter.held_tokens if is_current else 0
        money = (counter.spent_nano + counter.held_nano) / NANO if is_current else 0.0
    is_day = quota.budget_period == Period.DAY
    found = [
        (quota.requests_per_minute, Use(_("Requests this minute"), quota.requests_per_minute or 0, requests)),
        (quota.tokens_per_minute, Use(_("Tokens this minute"), quota.tokens_per_minute or 0, tokens)),
        (quota.max_concurrent, Use(_("Requests at once"), quota.max_concurrent or 0, num_open)),
        (
            quota.budget_tokens,
            Use(_("Tokens today") if is_day else _("Tokens this month"), quota.budget_tokens or 0, spent),
        ),
        (
            quota.budget_money,
            Use(_("Money today") if is_day else _("Money this month"), float(quota.budget_money or 0), money, 2),
        ),
    ]
    return [use for limit, use in found if limit is not None]
