"""Which quotas a request counts for: a look-up in memory, of what the database said at most a second ago."""

from collections import defaultdict
from dataclasses import dataclass, field

from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.snapshots import Snapshots
from apps.quotas.counters import Claim
from apps.quotas.models import Period, Quota
from apps.quotas.prices import TokenPrice, load_prices, to_nano

MAX_KNOWN = 10_000  # pairs of a caller and a model whose rules are remembered until the next look


@dataclass(frozen=True, slots=True)
class Rule:
    """One quota. `counter` is the name of what it counts, without the person where each has one of their own."""

    quota_id: int
    counter: str
    each_user: bool
    model_id: int | None
    period: str  # of its budgets; empty: it has none
    label: str  # for messages: whose limit it is
    limits: Claim

    def make_claim(self, user_id: int) -> Claim:
        """For a request of this person's, now."""
        limits = self.limits
        return Claim(
            counter=name_counter(self.counter, user_id if self.each_user else None),
            period=name_period(self.period) if self.period else "",
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            max_concurrent=limits.max_concurrent,
            budget_tokens=limits.budget_tokens,
            budget_nano=limits.budget_nano,
        )


@dataclass(slots=True)
class RuleBook:
    """All quotas and prices."""

    prices: dict[int, TokenPrice] = field(default_factory=dict)
    by_owner: dict[tuple[str, int], list[Rule]] = field(default_factory=lambda: defaultdict(list))
    is_empty: bool = True
    _known: dict[tuple[int | None, int, int, int], tuple[Rule, ...]] = field(default_factory=dict)

    def find(self, caller: Caller, model_id: int) -> tuple[Rule, ...]:
        """Those of the key, the person, the team, and everybody, that are for this model."""
        if self.is_empty:
            return ()
        who = (caller.key_id, caller.user_id, caller.team_id, model_id)
        rules = self._known.get(who)
        if rules is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            rules = self._known[who] = tuple(self._match(caller, model_id))
        return rules

    def _match(self, caller: Caller, model_id: int) -> list[Rule]:
        owners = [("key", caller.key_id or 0), ("user", caller.user_id), ("team", caller.team_id), ("", 0)]
        found = [rule for owner in owners for rule in self.by_owner.get(owner, ())]
        return [rule for rule in found if rule.model_id in (None, model_id)]


def name_counter(counter: str, user_id: int | None) -> str:
    """As stores know it."""
    return counter if user_id is None else f"{counter}:u{user_id}"


def name_period(period: str) -> str:
    """The day or the month that it is now, in the installation's time zone. Later ones sort behind."""
    return timezone.localtime().strftime("%Y-%m-%d" if period == Period.DAY else "%Y-%m")


def make_rule(quota: Quota) -> Rule:
    """A row as counters see it. With `model` loaded."""
    budgets = (quota.budget_tokens, quota.budget_money)
    period = quota.budget_period if any(budget is not None for budget in budgets) else ""
    return Rule(
        quota_id=quota.pk,
        counter=f"{quota.pk}{quota.budget_period[0]}",  # days and months are counted apart
        each_user=quota.each_user,
        model_id=quota.model_id,
        period=period,
        label=_describe(quota),
        limits=Claim(
            counter="",
            requests_per_minute=quota.requests_per_minute,
            tokens_per_minute=quota.tokens_per_minute,
            max_concurrent=quota.max_concurrent,
            budget_tokens=quota.budget_tokens,
            budget_nano=None if quota.budget_money is None else to_nano(quota.budget_money),
        ),
    )


def _describe(quota: Quota) -> str:
    owner = "this API key" if quota.api_key_id else "you" if quota.user_id else "your team" if quota.team_id else ""
    if quota.each_user:
        owner = "you"
    model = f"the model '{quota.model.name}'" if quota.model is not None else ""
    return " with ".join(part for part in (owner, model) if part) or "this installation"


def _find_owner(quota: Quota) -> tuple[str, int]:
    owners = (("key", quota.api_key_id), ("user", quota.user_id), ("team", quota.team_id))
    return next(((kind, pk) for kind, pk in owners if pk is not None), ("", 0))


def _load() -> RuleBook:
    quotas = list(Quota.objects.select_related("model"))
    if not quotas:
        return RuleBook()
    book = RuleBook(prices=load_prices(), is_empty=False)
    for quota in quotas:
        book.by_owner[_find_owner(quota)].append(make_rule(quota))
    return book


rule_book = Snapshots(_load)
