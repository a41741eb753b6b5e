"""Sums over the ledger, for dashboards. Reads only."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from apps.accounts.models import Team
from apps.core.errors import ContextLengthExceeded, InvalidRequest, PayloadTooLarge, UnsupportedParameter
from apps.usage.models import UsageRecord, UsageStatus

# As the ledger writes them: what a client did wrong is no failure of the service.
_REFUSALS = [error.code or error.type for error in (InvalidRequest, ContextLengthExceeded, UnsupportedParameter)]
_FAILED = Q(status__in=[UsageStatus.ERROR, UsageStatus.LOST]) & ~Q(error_code__in=[*_REFUSALS, PayloadTooLarge.code])
_SUMS = {
    "num_requests": Count("id"),
    "num_failed": Count("id", filter=_FAILED),
    "prompt_tokens": Sum("prompt_tokens", default=0),
    "cached_tokens": Sum("cached_tokens", default=0),
    "completion_tokens": Sum("completion_tokens", default=0),
    "device_s": Sum("device_s", default=0.0),
}


class Totals(NamedTuple):
    """Sums of a set of requests. `num_failed` are those that ended by an error of ours."""

    num_requests: int
    num_failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    device_s: float


class DayTotals(NamedTuple):
    """One day, in the installation's time zone."""

    day: date
    totals: Totals


class ModelTotals(NamedTuple):
    """One model, by the name it had."""

    model_name: str
    totals: Totals


class UserTotals(NamedTuple):
    """One person. None: users who have been deleted since."""

    username: str | None
    totals: Totals


def totals(since: datetime, team: Team | None = None, user: AbstractBaseUser | None = None) -> Totals:
    """All requests begun since then, of this team and this user where given."""
    return Totals(**_select(since, team, user).aggregate(**_SUMS))


def by_day(since: datetime, team: Team | None = None, user: AbstractBaseUser | None = None) -> list[DayTotals]:
    """Oldest day first. A day without a request is left out."""
    rows = _select(since, team, user).annotate(day=TruncDate("created_at")).values("day").order_by("day")
    return [DayTotals(row["day"], _sums_of(row)) for row in rows.annotate(**_SUMS)]


def by_model(since: datetime, team: Team | None = None, user: AbstractBaseUser | None = None) -> list[ModelTotals]:
    """The model with the most completion tokens first."""
    rows = _select(since, team, user).order_by().values("model_name").annotate(**_SUMS)
    return [ModelTotals(row["model_name"], _sums_of(row)) for row in rows.order_by("-completion_tokens")]


def by_user(since: datetime, team: Team | None = None) -> list[UserTotals]:
    """The user with the most completion tokens first. Requests of deleted users are one line, without a name."""
    rows = _select(since, team, None).order_by().values("user__username").annotate(**_SUMS)
    return [UserTotals(row["user__username"], _sums_of(row)) for row in rows.order_by("-completion_tokens")]


def recent(limit: int = 20, team: Team | None = None, user: AbstractBaseUser | None = None) -> list[UsageRecord]:
    """The newest requests, with their user, team and key loaded."""
    rows = _select(None, team, user).select_related("user", "team", "api_key")
    return list(rows.order_by("-created_at")[:limit])


def _sums_of(row: Mapping[str, Any]) -> Totals:
    return Totals(**{name: row[name] for name in Totals._fields})


def _select(since: datetime | None, team: Team | None, user: AbstractBaseUser | None) -> QuerySet[UsageRecord]:
    rows = UsageRecord.objects.all()
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    if team is not None:
        rows = rows.filter(team=team)
    if user is not None:
        rows = rows.filter(user_id=user.pk)
    return rows
