"""The request fields of the Messages API that are not honoured, in two classes: the table behind docs/api.md.

Honoured fields are the typed ones of `schemas`; a field in no table is a 400.
"""

from typing import Any

# field -> why it may be ignored
BOOKKEEPING: dict[str, str] = {
    "metadata": "labels; usage is booked on the key",
    "service_tier": "there is one tier",
    "cache_control": "prefixes are cached for every request",
    "user_profile_id": "an end-user id",
    "workspace_id": "usage is booked on the key",
    "diagnostics": "measurements of the prompt cache",
    "billing_policy": "nothing is billed",
}
# field -> the values that ask for what happens anyway; null is always one of them
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "container": (),
    "mcp_servers": ([],),
    "inference_geo": (),
    "speed": ("standard",),
    "thread": (),
    "compaction": (),
    "fallbacks": ([],),
    "fallback_credit_token": (),
}
# of count_tokens: they have no part in the prompt
UNCOUNTED: dict[str, str] = dict.fromkeys(
    ("max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k"), "it is no part of the prompt"
)
