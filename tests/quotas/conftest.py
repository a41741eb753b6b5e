"""What the tests of limits share: a server with a scripted worker, limits, and questions."""

from typing import Any

import httpx

from apps.accounts.models import APIKey
from apps.quotas.models import Quota
from apps.quotas.rules import rule_book
from tests.api.conftest import Api, api, chat_api, server
from tests.scripted_fixtures import scripted_model, worker

__all__ = ["api", "chat_api", "scripted_model", "server", "worker"]  # fixtures

PROMPT_TOKENS, ANSWER_TOKENS = 5, 6  # of the scripted worker
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": ANSWER_TOKENS}


def limit(**fields: Any) -> Quota:
    """A quota, for the only key where nobody else is named. Known to the server at once."""
    if not fields.keys() & {"user", "team", "api_key", "model"}:
        fields["api_key"] = APIKey.objects.get()
    quota = Quota.objects.create(**fields)
    rule_book.invalidate()
    return quota


def ask(api: Api, **fields: Any) -> httpx.Response:
    """One chat completion."""
    return api.post("/v1/chat/completions", BODY | fields)
