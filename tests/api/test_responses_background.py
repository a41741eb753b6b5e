"""Background responses: polled, cancelled, and ended when their server or process goes away."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.core.errors import InvalidRequest
from apps.inference import runs
from apps.openai_api.background_responses import STALE_AFTER
from apps.openai_api.background_runs import BackgroundRun
from apps.openai_api.models import ResponseStatus, StoredResponse
from apps.openai_api.tasks import sweep_responses
from apps.usage.models import UsageStatus
from tests.api.conftest import WAIT_S, Api, wait_for_settled_rows, wait_until
from tests.api.open_responses import check_response
from tests.api.test_responses import PATH, ask, refuse
from tests.api.test_responses_fields import parse_response_of
from tests.api.test_responses_state import get
from tests.api.test_sdks import make_openai
from tests.factories import make_key
from tests.scripted_worker import ScriptedWorker


def wait_for(api: Api, response: dict[str, Any], *statuses: str) -> dict[str, Any]:
    """The response, once it has one of these."""

    def look() -> dict[str, Any] | None:
        answer: dict[str, Any] = get(api, response["id"])
        check_response(answer)
        return answer if answer["status"] in statuses else None

    return wait_until(look)


def cancel(api: Api, response: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = api.post(f"{PATH}/{response['id']}/cancel", {})
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture(autouse=True)
def ended_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cancellations are seen soon, and no run outlives its test."""
    monkeypatch.setattr(BackgroundRun, "beat_interval_s", 0.05)
    yield
    wait_until(lambda: not runs._runs)


def test_response_goes_on_without_its_client(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo", hold_after=1)
    queued = ask(chat_api, background=True)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    wait_for(chat_api, queued, "in_progress")
    assert refuse(chat_api, previous_response_id=queued["id"])["code"] == "previous_response_not_found"
    worker.release()
    done = wait_for(chat_api, queued, "completed")
    assert done["output"][0]["content"][0]["text"] == "Hello"
    assert done["usage"]["output_tokens"] == 2
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.id) == (UsageStatus.OK, queued["id"])
    worker.say("again")
    ask(chat_api, previous_response_id=queued["id"])
    assert [message["content"] for message in worker.generates[1].messages or []] == ["hello", "Hello", "hello"]


def test_cancelled_response_stops_at_the_worker(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    queued = ask(chat_api, background=True)
    wait_for(chat_api, queued, "in_progress")
    worker.wait_for(lambda worker: worker.num_sent == 1)
    assert cancel(chat_api, queued)["status"] == "cancelled"
    worker.wait_for(lambda worker: bool(worker.aborted))
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == (UsageStatus.CANCELLED, 1)
    wait_until(lambda: not runs._runs)
    assert cancel(chat_api, queued)["status"] == "cancelled"  # again: it stays as it is
    assert get(chat_api, queued["id"])["error"] is None


def test_response_that_has_ended_is_not_cancelled(chat_api: Api) -> None:
    queued = ask(chat_api, background=True)
    done = wait_for(chat_api, queued, "completed")
    assert cancel(chat_api, queued) == done


def test_deleted_response_stops_too(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    queued = ask(chat_api, background=True)
    with chat_api.client() as client:
        assert client.delete(f"{PATH}/{queued['id']}").status_code == 200
    wait_until(lambda: not runs._runs)
    assert not StoredResponse.objects.exists()
    wait_for_settled_rows(1)


def test_failure_is_told_in_the_response(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", fail="invalid_request", fail_after=1, fail_param="max_tokens", fail_message="'max_tokens': no")
    failed = wait_for(chat_api, ask(chat_api, background=True), "failed")
    assert failed["error"] == {"code": "invalid_prompt", "message": "'max_output_tokens': no"}
    assert refuse(chat_api, previous_response_id=failed["id"])["param"] == "previous_response_id"


def test_fault_of_ours_says_nothing_of_the_inside(chat_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("apps.openai_api.encoders.responses.ResponseEncoder.add_delta", fail)
    failed = wait_for(chat_api, ask(chat_api, background=True), "failed")
    assert failed["error"]["code"] == "server_error"
    assert "secret" not in str(failed)


def test_server_that_stops_ends_its_responses(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    queued = ask(chat_api, background=True)
    wait_for(chat_api, queued, "in_progress")
    (run,) = runs._runs
    asyncio.run_coroutine_threadsafe(runs.shutdown(), run._task.get_loop()).result(WAIT_S)
    failed = get(chat_api, queued["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    wait_for_settled_rows(1)


@pytest.mark.parametrize("swept", [True, False], ids=["swept", "read"])
def test_response_of_a_process_that_is_gone_has_failed(chat_api: Api, swept: bool) -> None:
    queued = ask(chat_api, background=True)
    wait_for(chat_api, queued, "completed")
    row = StoredResponse.objects.get()
    row.status = ResponseStatus.IN_PROGRESS
    row.response = row.response.replace('"completed"', '"in_progress"')
    row.heartbeat_at = timezone.now() - STALE_AFTER - timedelta(seconds=1)
    row.save()
    if swept:
        sweep_responses()
        assert StoredResponse.objects.get().status == ResponseStatus.FAILED
    failed = get(chat_api, queued["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")


def test_only_ones_own_background_responses_are_cancelled(chat_api: Api) -> None:
    assert cancel(chat_api, ask(chat_api), 400)["error"]["type"] == "invalid_request_error"
    queued = ask(chat_api, background=True)
    cancel(Api(chat_api.url, make_key().secret), queued, 404)
    wait_for(chat_api, queued, "completed")


def test_openai_sdk_polls_and_cancels(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    with make_openai(chat_api) as client:
        response = client.responses.create(model="scripted", input="hi", background=True)
        assert response.status == "queued"
        assert client.responses.cancel(response.id).status == "cancelled"
        assert client.responses.retrieve(response.id).status == "cancelled"
    wait_for_settled_rows(1)


def test_background_response_has_to_be_stored() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_response_of(background=True, store=False)
    assert caught.value.param == "store"
