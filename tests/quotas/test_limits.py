"""Limits as clients meet them, over HTTP, with a scripted worker behind the server."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from django.core import mail

from apps.accounts.models import APIKey
from apps.quotas import reaper
from apps.quotas.counters import BudgetWarning
from apps.quotas.models import Price, Quota, QuotaHold
from apps.quotas.notices import deliver
from apps.quotas.stores.base import StoreAway
from apps.quotas.stores.choice import get_store
from apps.quotas.use import read_uses
from apps.registry.models import HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from tests.api.conftest import Api, wait_for_settled_rows, wait_until
from tests.factories import make_key
from tests.quotas.conftest import ANSWER_TOKENS, BODY, PROMPT_TOKENS, ask, limit
from tests.scripted_worker import Answer, ScriptedWorker

HOLD = PROMPT_TOKENS + ANSWER_TOKENS


def read_error(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 429, response.text
    assert int(response.headers["retry-after"]) >= 1
    return response.json()["error"]


def test_no_limits_no_headers(chat_api: Api) -> None:
    response = ask(chat_api)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]
    assert not QuotaHold.objects.exists()


def test_requests_a_minute(chat_api: Api) -> None:
    limit(requests_per_minute=2)
    first, second, third = ask(chat_api), ask(chat_api, stream=True), ask(chat_api)
    assert [response.status_code for response in (first, second, third)] == [200, 200, 429]
    left = [response.headers["x-ratelimit-remaining-requests"] for response in (first, second, third)]
    assert left == ["1", "0", "0"]
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert third.headers["x-ratelimit-reset-requests"].endswith("s")
    error = read_error(third)
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "this API key: 2 requests a minute" in error["message"]
    assert len(wait_for_settled_rows(2)) == 2  # who is not let in leaves no row


def test_requests_at_once(chat_api: Api, worker: ScriptedWorker) -> None:
    limit(max_concurrent=1)
    worker.reply(Answer(hold_after=1))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, chat_api)
        wait_until(lambda: worker.num_running == 1)
        assert "1 requests at once" in read_error(ask(chat_api))["message"]
        worker.release()
        assert running.result().status_code == 200
    worker.reply(Answer())
    assert ask(chat_api).status_code == 200


def test_tokens_are_held_by_prompt_and_max_tokens_and_settled_by_use(chat_api: Api, worker: ScriptedWorker) -> None:
    quota = limit(tokens_per_minute=100)
    response = ask(chat_api, max_tokens=90)
    assert response.headers["x-ratelimit-remaining-tokens"] == str(100 - PROMPT_TOKENS - 90)
    wait_until(lambda: not QuotaHold.objects.exists())
    assert read_uses([quota])[quota.pk][0].used == HOLD
    error = read_error(ask(chat_api, max_tokens=90))
    assert f"{HOLD} are in use; this request may come to 95" in error["message"]
    assert ask(chat_api, max_tokens=100 - HOLD - PROMPT_TOKENS).status_code == 200


def test_a_request_that_never_fits_is_told_so(chat_api: Api) -> None:
    limit(tokens_per_minute=100)
    response = ask(chat_api, max_tokens=96)
    assert read_error(response)["param"] == "max_tokens"
    assert response.headers["x-should-retry"] == "false"
    whole_context = read_error(chat_api.post("/v1/chat/completions", without_max_tokens()))
    assert "may come to 4096 tokens" in whole_context["message"]
    assert ask(chat_api, max_tokens=95).status_code == 200  # the refused ones have left nothing behind


def without_max_tokens() -> dict[str, object]:
    return {name: value for name, value in BODY.items() if name != "max_tokens"}


def test_a_client_that_leaves_gets_back_what_it_held(chat_api: Api, worker: ScriptedWorker) -> None:
    quota = limit(tokens_per_minute=1000, max_concurrent=1)
    worker.reply(Answer(hold_after=2))
    body = json.dumps(BODY | {"stream": True, "max_tokens": 900}).encode()
    with chat_api.connect("/v1/chat/completions", body) as connection:
        wait_until(lambda: worker.num_running == 1)
        connection.getresponse().readline()
    (row,) = wait_for_settled_rows(1)
    assert row.status == UsageStatus.CANCELLED
    wait_until(lambda: not QuotaHold.objects.exists())
    tokens, at_once = read_uses([quota])[quota.pk]
    assert (tokens.used, at_once.used) == (row.prompt_tokens + row.completion_tokens, 0)


def test_budget_counts_what_the_ledger_has_and_is_said_to_be_used_up(chat_api: Api) -> None:
    assert ask(chat_api).status_code == 200
    wait_for_settled_rows(1)
    limit(budget_tokens=2 * HOLD, budget_period="day")
    assert ask(chat_api).status_code == 200
    wait_until(lambda: not QuotaHold.objects.exists())
    response = ask(chat_api)
    error = read_error(response)
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-ratelimit-remaining-tokens"] == "0"
    assert int(response.headers["retry-after"]) <= 86400


def test_budget_in_money(chat_api: Api, scripted_model: HostedModel) -> None:
    Price.objects.create(model=scripted_model, prompt=1000, completion=2000)  # a thousandth and two for each token
    limit(model=scripted_model, budget_money="0.05")  # a request: 0.005 + 0.012
    codes = []
    for _ in range(3):
        codes.append(ask(chat_api).status_code)
        wait_until(lambda: not QuotaHold.objects.exists())
    assert codes == [200, 200, 429]
    (use,) = read_uses(Quota.objects.all()).popitem()[1]
    assert use.used == pytest.approx(0.034)


@pytest.mark.parametrize("owner", ["user", "team", "model"])
def test_limits_of_a_person_a_team_and_a_model(chat_api: Api, scripted_model: HostedModel, owner: str) -> None:
    key = APIKey.objects.get()
    limit(**{owner: {"user": key.user, "team": key.team, "model": scripted_model}[owner]}, requests_per_minute=1)
    other = Api(chat_api.url, make_key(user=key.user, team=key.team).secret)
    assert [ask(chat_api).status_code, ask(other).status_code] == [200, 429]
    stranger = Api(chat_api.url, make_key().secret)
    assert ask(stranger).status_code == (429 if owner == "model" else 200)


def test_everybody_for_themselves(chat_api: Api, scripted_model: HostedModel) -> None:
    limit(model=scripted_model, each_user=True, requests_per_minute=1)
    stranger = Api(chat_api.url, make_key().secret)
    assert [ask(caller).status_code for caller in (chat_api, stranger, chat_api)] == [200, 200, 429]


def test_limits_of_another_model_do_not_count(chat_api: Api) -> None:
    limit(api_key=APIKey.objects.get(), model=HostedModel.objects.create(name="b", source="b"), requests_per_minute=0)
    assert ask(chat_api).status_code == 200


MESSAGES = [{"role": "user", "content": "hi"}]
REQUESTS = {
    "/v1/completions": {"model": "scripted", "prompt": "hi"},
    "/v1/responses": {"model": "scripted", "input": "hi"},
    "/v1/messages": {"model": "scripted", "messages": MESSAGES, "max_tokens": 9},
    "/v1/embeddings": {"model": "scripted", "input": "hi"},
    "/v1/rerank": {"model": "scripted", "query": "a", "documents": ["b"]},
    "/v1/score": {"model": "scripted", "text_1": "a", "text_2": "b"},
}


@pytest.mark.parametrize("path", REQUESTS)
def test_every_endpoint_that_generates_has_limits(chat_api: Api, path: str) -> None:
    limit(requests_per_minute=0)
    response = chat_api.post(path, REQUESTS[path])
    error = read_error(response)
    assert response.headers["x-ratelimit-limit-requests"] == "0"
    if path == "/v1/messages":
        assert response.json()["type"] == "error"
        assert error["type"] == "rate_limit_error"
    else:
        assert error["code"] == "rate_limit_exceeded"
    assert not UsageRecord.objects.exists()


def test_recordings_have_limits(chat_api: Api) -> None:
    limit(requests_per_minute=0)
    with chat_api.client() as client:
        response = client.post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", b"RIFF")}, data={"model": "scripted"}
        )
    assert read_error(response)["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(("setting", "status"), [("refuse", 503), ("allow", 200)])
def test_a_store_that_is_away(
    chat_api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch, setting: str, status: int
) -> None:
    async def is_away(*_: object) -> None:
        raise StoreAway

    limit(requests_per_minute=1)
    settings.QUOTAS_WHEN_AWAY = setting
    monkeypatch.setattr(get_store(), "reserve", is_away)
    response = ask(chat_api)
    assert response.status_code == status
    if status == 503:
        assert response.json()["error"]["code"] == "quotas_unavailable"


def test_holds_of_a_killed_process_are_settled_by_the_ledger(chat_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = limit(tokens_per_minute=1000, max_concurrent=1)
    monkeypatch.setattr(get_store(), "settle", lambda *_: None)  # as if it had been killed before
    assert ask(chat_api, max_tokens=900).status_code == 200
    wait_for_settled_rows(1)
    assert ask(chat_api).status_code == 429
    assert reaper.reap() == 0  # too young: it may still end by itself
    monkeypatch.setattr(reaper, "SETTLED_LATE_AFTER_S", -1.0)
    assert [reaper.reap(), reaper.reap()] == [1, 0]
    assert [use.used for use in read_uses([quota])[quota.pk]] == [HOLD, 0]


def test_a_warning_goes_out_by_mail_and_webhook(chat_api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[object, ...]] = []
    monkeypatch.setattr("apps.quotas.warnings.current_app.send_task", lambda name, args, **_: sent.append(args))
    quota = limit(budget_tokens=2 * HOLD, warn_email="a@example.com")
    for _ in range(2):
        assert ask(chat_api).status_code == 200
        wait_until(lambda: not QuotaHold.objects.exists())
    wait_until(lambda: sent)
    assert len(sent) == 1
    settings.EMAIL_HOST = "mail.example.com"  # the tests' backend keeps mails
    deliver(BudgetWarning(*sent[0]))  # type: ignore[arg-type]
    (message,) = mail.outbox
    assert message.to == ["a@example.com"]
    assert "80 %" in message.subject
    assert f"Tokens: {2 * HOLD} of {2 * HOLD}" in message.body
    assert str(quota) in message.subject
