"""What a quota's period has seen before its counter was made: the ledger's own sums. Blocking, reads only."""

from datetime import datetime

from django.db.models import QuerySet, Sum
from django.utils import timezone

from apps.quotas.models import Period, Quota
from apps.quotas.prices import FREE, load_prices_by_name
from apps.quotas.rules import name_counter
from apps.usage.models import UsageRecord


def find_spent(quota_ids: list[int], user_id: int) -> dict[str, tuple[int, int]]:
    """Tokens and money by the counter of each quota, for a request of this person's."""
    prices = load_prices_by_name()
    spent = {}
    for quota in Quota.objects.filter(pk__in=quota_ids).select_related("model"):
        rows = _select(quota, user_id).order_by().values("model_name")
        sums = rows.annotate(
            prompt_tokens=Sum("prompt_tokens"),
            cached_tokens=Sum("cached_tokens"),
            completion_tokens=Sum("completion_tokens"),
        )
        tokens = nano = 0
        for row in sums:
            tokens += row["prompt_tokens"] + row["completion_tokens"]
            nano += prices.get(row["model_name"], FREE).cost(
                prompt_tokens=row["prompt_tokens"],
                cached_tokens=row["cached_tokens"],
                completion_tokens=row["completion_tokens"],
            )
        name = name_counter(f"{quota.pk}{quota.budget_period[0]}", user_id if quota.each_user else None)
        spent[name] = (tokens, nano)
    return spent


def _select(quota: Quota, user_id: int) -> QuerySet[UsageRecord]:
    rows = UsageRecord.objects.filter(created_at__gte=_find_beginning(quota.budget_period))
    if quota.api_key_id is not None:
        rows = rows.filter(api_key=quota.api_key_id)
    if quota.user_id is not None or quota.each_user:
        rows = rows.filter(user=quota.user_id or user_id)
    if quota.team_id is not None:
        rows = rows.filter(team=quota.team_id)
    if quota.model is not None:
        names = [quota.model.name, *quota.model.adapters.values_list("name", flat=True)]
        rows = rows.filter(model_name__in=names)
    return rows


def _find_beginning(period: str) -> datetime:
    today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    return today if period == Period.DAY else today.replace(day=1)
