"""Tells people that a budget is nearly used: by e-mail and by webhook, as its quota says. Blocking."""

import asyncio
import logging
from typing import Any

import msgspec
from django.conf import settings
from django.core.mail import send_mail
from django.utils.translation import gettext as _
from django.utils.translation import override

from apps.core.fetch import FetchError, FetchRules, post_json
from apps.quotas.counters import WARN_AT_PERCENT, BudgetWarning
from apps.quotas.models import NANO, Quota

MAX_REPLY_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


def deliver(warning: BudgetWarning) -> None:
    """To whom the quota names. What cannot be delivered is logged; the counters do not depend on it."""
    quota = Quota.objects.select_related("api_key", "user", "team", "model").filter(pk=find_quota_id(warning)).first()
    if quota is None:
        return
    with override(settings.LANGUAGE_CODE):
        notice = _describe(quota, warning)
        if quota.warn_email:
            _mail(quota, notice)
    if quota.warn_url:
        _post(quota, notice)


def find_quota_id(warning: BudgetWarning) -> int:
    """Of a counter's name: the number before the letter of its period."""
    return int(warning.counter.partition(":")[0][:-1])


def _describe(quota: Quota, warning: BudgetWarning) -> dict[str, Any]:
    return {
        "event": "budget_nearly_used",
        "quota": quota.pk,
        "name": str(quota),
        "user_id": int(warning.counter.partition(":u")[2]) if quota.each_user else quota.user_id,
        "period": warning.period,
        "percent": WARN_AT_PERCENT,
        "spent_tokens": warning.spent_tokens,
        "budget_tokens": quota.budget_tokens,
        "spent_money": warning.spent_nano / NANO,
        "budget_money": None if quota.budget_money is None else float(quota.budget_money),
    }


def _mail(quota: Quota, notice: dict[str, Any]) -> None:
    if not settings.EMAIL_HOST:
        logger.warning("quota %s: no e-mail was sent, because ATRIUM_EMAIL_HOST is not set", quota.pk)
        return
    subject = _("Atrium: %(percent)d %% of the budget of %(name)s is used") % notice
    lines = [_("Period: %(period)s") % notice]
    if quota.budget_tokens is not None:
        lines.append(_("Tokens: %(spent_tokens)d of %(budget_tokens)d") % notice)
    if quota.budget_money is not None:
        lines.append(_("Money: %(spent_money).2f of %(budget_money).2f") % notice)
    try:
        send_mail(subject, "\n".join(lines), None, [quota.warn_email])
    except OSError:
        logger.exception("quota %s: the e-mail could not be sent", quota.pk)


def _post(quota: Quota, notice: dict[str, Any]) -> None:
    rules = FetchRules(
        max_bytes=MAX_REPLY_BYTES,
        timeout_s=settings.FETCH_TIMEOUT_S,
        private_hosts=frozenset(settings.FETCH_PRIVATE_HOSTS),
    )
    try:
        asyncio.run(post_json(quota.warn_url, msgspec.json.encode(notice), rules))
    except FetchError as error:
        logger.error("quota %s: the webhook was not told: %s", quota.pk, error)
