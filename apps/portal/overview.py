"""The admin's first page: what runs, what is broken, what was asked for today. Reads only.

A person sees the parts whose rows they may see in the admin.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Prefetch
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from apps.registry.models import HostedModel, Node, Replica, ReplicaState
from apps.usage import reports
from apps.usage.models import UsageRecord, UsageStatus

NUM_DAYS = 14
NUM_ERRORS = 8
NODE_SILENT_AFTER = timedelta(minutes=1)
# Worst news last: what a model's line shows is its best replica.
_STATES_BEST_FIRST = [
    ReplicaState.READY,
    ReplicaState.LOADING,
    ReplicaState.STARTING,
    ReplicaState.REQUESTED,
    ReplicaState.DRAINING,
    ReplicaState.FAILED,
]
STATE_VARIANTS = {
    ReplicaState.READY: "success",
    ReplicaState.LOADING: "info",
    ReplicaState.STARTING: "info",
    ReplicaState.REQUESTED: "info",
    ReplicaState.DRAINING: "warning",
    ReplicaState.FAILED: "danger",
    ReplicaState.STOPPED: "",
}


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model and its best replica. `detail` is progress while it loads and the error when it failed."""

    name: str
    url: str
    state: str
    variant: str
    detail: str
    num_ready: int
    max_replicas: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs a person."""

    title: str
    detail: str
    url: str
    at: datetime | None


def add_overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The admin theme's dashboard callback."""
    context["title"] = _("Overview")
    if request.user.has_perm("registry.view_hostedmodel"):
        context["model_lines"] = list_models()
        context["problems"] = list_problems()
    if request.user.has_perm("usage.view_usagerecord"):
        today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
        context["today"] = reports.totals(today)
        context["num_open"] = UsageRecord.objects.filter(status=UsageStatus.OPEN).count()
        context["by_model"] = reports.by_model(today)[:10]
        context["by_user"] = reports.by_user(today)[:10]
        context["errors"] = _list_errors()
        context["chart"] = json.dumps(_draw_days(today))
    return context


def list_models() -> list[ModelLine]:
    """Every enabled model, by name."""
    replicas = Replica.objects.exclude(state=ReplicaState.STOPPED).defer("log_tail")
    models = HostedModel.objects.filter(enabled=True).prefetch_related(Prefetch("replicas", replicas))
    return [_describe(model, list(model.replicas.all())) for model in models]


def _describe(model: HostedModel, replicas: list[Replica]) -> ModelLine:
    if model.is_upstream:
        return _describe_upstream(model)
    replicas.sort(key=lambda replica: _STATES_BEST_FIRST.index(ReplicaState(replica.state)))
    best = replicas[0] if replicas else None
    detail = ""
    if best is not None and best.state == ReplicaState.FAILED:
        detail = _first_line(best.last_error)
    elif best is not None and best.state == ReplicaState.LOADING:
        detail = f"{best.progress:.0%} {best.stage}"
    return ModelLine(
        name=model.name,
        url=reverse("admin:registry_hostedmodel_change", args=[model.pk]),
        state=best.get_state_display() if best else _("Not loaded"),
        variant=STATE_VARIANTS[ReplicaState(best.state)] if best else "",
        detail=detail,
        num_ready=sum(replica.state == ReplicaState.READY for replica in replicas),
        max_replicas=model.max_replicas,
    )


def _describe_upstream(model: HostedModel) -> ModelLine:
    is_fine = not model.upstream_error
    return ModelLine(
        name=model.name,
        url=reverse("admin:registry_hostedmodel_change", args=[model.pk]),
        state=_("Upstream"),
        variant="success" if is_fine else "danger",
        detail=model.upstream_error,
        num_ready=int(is_fine),
        max_replicas=1,
    )


def list_problems() -> list[Problem]:
    """Failed replicas, replicas that keep being restarted, and machines that have gone silent."""
    problems = []
    for replica in Replica.objects.exclude(state=ReplicaState.STOPPED).select_related("model").defer("log_tail"):
        failed = replica.state == ReplicaState.FAILED
        if failed or (replica.last_error and replica.state != ReplicaState.READY):
            title = _("%(model)s has failed") if failed else _("%(model)s is being restarted")
            problems.append(
                Problem(
                    title=title % {"model": replica.model.name},
                    detail=_first_line(replica.last_error),
                    url=reverse("admin:registry_replica_change", args=[replica.pk]),
                    at=replica.state_changed_at,
                )
            )
    for node in Node.objects.filter(last_seen_at__lt=timezone.now() - NODE_SILENT_AFTER):
        problems.append(
            Problem(
                title=_("Machine %(node)s is silent") % {"node": node.name},
                detail=_("Its Celery worker does not report. Models on it can be neither started nor stopped."),
                url=reverse("admin:registry_node_change", args=[node.pk]),
                at=node.last_seen_at,
            )
        )
    return problems


def _list_errors() -> list[UsageRecord]:
    broken = UsageRecord.objects.filter(status__in=[UsageStatus.ERROR, UsageStatus.LOST])
    return list(broken.select_related("user")[:NUM_ERRORS])


def _draw_days(today: datetime) -> dict[str, Any]:
    """Requests of each of the last days, in the shape of Chart.js."""
    first = today - timedelta(days=NUM_DAYS - 1)
    counts = {day.day: day.totals.num_requests for day in reports.by_day(first)}
    days = [(first + timedelta(days=index)).date() for index in range(NUM_DAYS)]
    return {
        "labels": [date_format(day, "MONTH_DAY_FORMAT") for day in days],
        "datasets": [
            {
                "label": _("Requests"),
                "data": [counts.get(day, 0) for day in days],
                "backgroundColor": "var(--color-primary-600)",
                "borderRadius": 3,
                "maxBarThickness": 28,
            }
        ],
    }


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")
