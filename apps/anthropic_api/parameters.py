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
# All that this server does with a conversation: it takes nothing out of it.
_KEEP_ALL = [{"type": "clear_thinking_20251015", "keep": keep} for keep in ("all", {"type": "all"})]
# field -> the values that ask for what happens anyway; null is always one of them
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({}, {"edits": []}, *({"edits": [edit]} for edit in _KEEP_ALL)),
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
