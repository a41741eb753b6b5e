"""Hands warnings of budgets to Celery: mail servers and webhooks are slow, and nobody's request waits for them."""

import logging
from collections.abc import Iterable

import msgspec
from celery import current_app

from apps.quotas.counters import BudgetWarning

logger = logging.getLogger(__name__)


def send_warnings(warnings: Iterable[BudgetWarning]) -> None:
    """Have each delivered once. Blocking; what cannot be handed over is logged."""
    for warning in warnings:
        try:
            current_app.send_task("quotas.warn", args=msgspec.structs.astuple(warning), ignore_result=True)
        except Exception:  # whatever the broker raises: the counters are right, and requests go on
            logger.exception("no warning for quota %s", warning.counter)
