"""What a caller is told of a limit: the error, and OpenAI's headers on every answer that has limits.

https://platform.openai.com/docs/guides/rate-limits. Knows no store.
"""

from contextvars import ContextVar
from datetime import datetime, timedelta

from django.utils import timezone

from apps.core.errors import InsufficientQuota, RateLimited, RequestOverLimit
from apps.quotas.counters import WINDOW_S, Claim, Need, Refusal, Standing
from apps.quotas.models import NANO
from apps.quotas.rules import Rule

Headers = list[tuple[bytes, bytes]]
HELD_RETRY_S = 1.0  # what is in the way are requests that run now

_headers: ContextVar[Headers | None] = ContextVar("ratelimit_headers", default=None)


def collect_headers() -> Headers:
    """The list into which goes what is told of limits from now on, in this task and those that it starts."""
    headers: Headers = []
    _headers.set(headers)
    return headers


def tell_standings(claims: list[Claim], standings: list[Standing]) -> None:
    """Of all limits those that leave the least."""
    headers = _headers.get()
    if headers is None:
        return
    pairs = list(zip(claims, standings, strict=True))
    requests = [
        (limit - now.requests, limit, WINDOW_S - now.newest_s)
        for claim, now in pairs
        if (limit := claim.requests_per_minute) is not None
    ]
    tokens = [
        (limit - now.tokens, limit, WINDOW_S - now.newest_s)
        for claim, now in pairs
        if (limit := claim.tokens_per_minute) is not None
    ]
    tokens += [
        (limit - now.budget_tokens, limit, find_rest_s(claim.period))
        for claim, now in pairs
        if (limit := claim.budget_tokens) is not None
    ]
    headers[:] = [*_describe(b"requests", requests), *_describe(b"tokens", tokens)]


def make_refusal(rule: Rule, claim: Claim, need: Need, refusal: Refusal) -> RateLimited:
    """The error of this limit."""
    limit = getattr(claim, refusal.limit)
    match refusal.limit:
        case "requests_per_minute":
            return RateLimited(
                f"Rate limit reached for {rule.label}: {limit} requests a minute.", retry_after_s=refusal.wait_s
            )
        case "max_concurrent":
            message = f"Rate limit reached for {rule.label}: {limit} requests at once."
            return RateLimited(message, retry_after_s=HELD_RETRY_S)
        case "tokens_per_minute":
            return _refuse_tokens(rule, limit, need, refusal)
    return _refuse_budget(rule, claim, need, refusal)


def find_rest_s(period: str) -> float:
    """How long the day or the month of this name still lasts."""
    now = timezone.localtime()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if len(period) > len("2026-01"):
        end: datetime = today + timedelta(days=1)
    else:
        end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return max(1.0, (end - now).total_seconds())


def _refuse_tokens(rule: Rule, limit: int, need: Need, refusal: Refusal) -> RateLimited:
    if need.tokens > limit:
        return RequestOverLimit(
            f"This request may come to {need.tokens} tokens, its prompt and 'max_tokens' together; the limit for "
            f"{rule.label} is {limit} tokens a minute. Ask for fewer.",
            param="max_tokens",
        )
    return RateLimited(
        f"Rate limit reached for {rule.label}: {limit} tokens a minute, of which {refusal.used} are in use; this "
        f"request may come to {need.tokens}.",
        retry_after_s=refusal.wait_s,
    )


def _refuse_budget(rule: Rule, claim: Claim, need: Need, refusal: Refusal) -> RateLimited:
    wanted, limit = (
        (need.tokens, claim.budget_tokens) if refusal.limit == "budget_tokens" else (need.nano, claim.budget_nano)
    )
    if refusal.limit == "budget_tokens":
        amounts = f"{limit} tokens, of which {refusal.used} are used or held; this request may come to {wanted}"
    else:
        used = _money(refusal.used)
        amounts = f"{_money(limit)}, of which {used} is used or held; this request may come to {_money(wanted)}"
    period = "today" if len(claim.period) > len("2026-01") else "this month"
    message = f"The budget of {rule.label} for {period} is {amounts}."
    if refusal.held and refusal.used - refusal.held + wanted <= (limit or 0):
        return RateLimited(f"{message} It may fit once requests that run now have ended.", retry_after_s=HELD_RETRY_S)
    return InsufficientQuota(message, retry_after_s=find_rest_s(claim.period))


def _money(nano: int | None) -> str:
    return f"{(nano or 0) / NANO:.4f}"


def _describe(name: bytes, limits: list[tuple[int, int, float]]) -> Headers:
    if not limits:
        return []
    remaining, limit, reset_s = min(limits)
    return [
        (b"x-ratelimit-limit-" + name, b"%d" % limit),
        (b"x-ratelimit-remaining-" + name, b"%d" % max(0, remaining)),
        (b"x-ratelimit-reset-" + name, _format_duration(max(0.0, reset_s))),
    ]


def _format_duration(seconds: float) -> bytes:
    """As Go writes one, and OpenAI: 1.5s, 6m0s, 23h59m1s."""
    if seconds < 60:
        return f"{seconds:.3g}s".encode()
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s".encode() if hours else f"{minutes}m{rest}s".encode()
