"""Counters for Prometheus. Counted once a request, when it is settled: never per token."""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from apps.usage.entry import Entry
from apps.usage.models import UsageStatus

REQUESTS = Counter("atrium_requests_total", "Requests that have ended.", ["model", "endpoint", "status"])
TOKENS = Counter("atrium_tokens_total", "Tokens by kind; cached are part of prompt.", ["model", "kind"])
TTFT = Histogram(
    "atrium_time_to_first_token_seconds",
    "From the request's arrival to its first output.",
    ["model"],
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
DURATION = Histogram(
    "atrium_request_duration_seconds",
    "From the request's arrival to its end.",
    ["model"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
FAILOVERS = Counter("atrium_failovers_total", "Connections to a replica lost while a request was on it.", ["model"])
IN_FLIGHT = Gauge("atrium_requests_in_flight", "Requests now open.", multiprocess_mode="livesum")


@cache
def _children(model: str) -> tuple[Counter, Counter, Counter, Histogram, Histogram]:
    """Looking up a label costs more than counting."""
    return (
        TOKENS.labels(model, "prompt"),
        TOKENS.labels(model, "cached"),
        TOKENS.labels(model, "completion"),
        TTFT.labels(model),
        DURATION.labels(model),
    )


@cache
def _requests(model: str, endpoint: str, status: UsageStatus) -> Counter:
    return REQUESTS.labels(model, endpoint, status.value)


def observe(entry: Entry) -> None:
    """Count a request that has been settled."""
    prompt, cached, completion, ttft, duration = _children(entry.model_name)
    _requests(entry.model_name, entry.endpoint, entry.status).inc()
    prompt.inc(entry.prompt_tokens)
    if entry.cached_tokens:
        cached.inc(entry.cached_tokens)
    completion.inc(entry.completion_tokens)
    if entry.ttft_s is not None:
        ttft.observe(entry.ttft_s)
    if entry.duration_s is not None:
        duration.observe(entry.duration_s)
