"""Background responses as streams: live, read again from any event on, cancelled, forgotten."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone

from apps.openai_api import event_log, event_streams, kept_events
from apps.openai_api.models import EventStream, StoredResponse
from apps.openai_api.tasks import sweep_responses
from apps.usage.models import UsageStatus
from tests.api.conftest import Api, wait_for_settled_rows, wait_until
from tests.api.open_responses import check_stream
from tests.api.sse import stream
from tests.api.test_responses import HELLO, PATH, ask, ask_stream, parse_stream
from tests.api.test_responses_background import cancel, ended_runs, wait_for
from tests.api.test_responses_state import get
from tests.api.test_sdks import make_openai
from tests.factories import make_key
from tests.scripted_worker import ScriptedWorker

__all__ = ["ended_runs"]  # a fixture that every test here uses

BACKGROUND = HELLO | {"background": True, "stream": True}


def read(api: Api, response_id: str, after: int | None = None) -> httpx.Response:
    """The events once more."""
    query = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
    with api.client() as client:
        return client.get(f"{PATH}/{response_id}", params=query)


def read_events(api: Api, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    response = read(api, response_id, after)
    assert response.status_code == 200, response.text
    return parse_stream(response.text)


def refuse_reading(api: Api, response_id: str, status: int, query: str = "stream=true") -> dict[str, Any]:
    with api.client() as client:
        response = client.get(f"{PATH}/{response_id}?{query}")
    assert response.status_code == status, response.text
    return response.json()["error"]


def begin(api: Api, num_deltas: int) -> list[dict[str, Any]]:
    """Ask for a stream and leave it after so many deltas. Returns the events until then."""
    events: list[dict[str, Any]] = []
    with stream(api, PATH, BACKGROUND) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                if sum(event["type"] == "response.output_text.delta" for event in events) == num_deltas:
                    return events
    raise AssertionError("the stream ended early")


def test_stream_is_live_and_its_response_is_the_kept_one(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    events = ask_stream(chat_api, background=True)
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    final = events[-1]["response"]
    assert (final["status"], final["background"]) == ("completed", True)
    assert get(chat_api, final["id"]) == final
    assert read_events(chat_api, final["id"]) == events
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.id) == (UsageStatus.OK, final["id"])


def test_lost_stream_goes_on_after_any_event(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", "c", hold_after=2)
    seen = begin(chat_api, 1)
    response_id = seen[0]["response"]["id"]
    with (
        chat_api.client() as client,
        client.stream(
            "GET", f"{PATH}/{response_id}", params={"stream": "true", "starting_after": seen[-1]["sequence_number"]}
        ) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        line = next(line for line in lines if line.startswith("data: "))
        worker.release()
        rest = parse_stream("".join([f"event: {json.loads(line[6:])['type']}\n", line, "\n", *_join(lines)]))
    check_stream(seen + rest)
    whole = read_events(chat_api, response_id)
    assert whole == seen + rest
    for number in range(len(whole)):
        assert read_events(chat_api, response_id, number) == whole[number + 1 :]
    assert worker.aborted == []


def _join(lines: Any) -> list[str]:
    return [f"{line}\n" for line in lines]


def test_reader_that_fell_behind_gets_everything(
    chat_api: Api, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "WINDOW_BYTES", 0)  # what is saved is not in memory any more
    monkeypatch.setattr(event_streams, "POLL_INTERVAL_S", 0.02)
    worker.say("a", "b", "c", hold_after=2)
    seen = begin(chat_api, 2)
    response_id = seen[0]["response"]["id"]
    wait_until(EventStream.objects.get().segments.count)
    log = event_streams._logs[response_id]
    wait_until(lambda: log.first == len(seen))
    with chat_api.client() as client, client.stream("GET", f"{PATH}/{response_id}?stream=true") as response:
        lines = response.iter_lines()
        first = next(lines)
        worker.release()
        events = parse_stream("".join([f"{first}\n", *_join(lines)]))
    check_stream(events)
    assert events[: len(seen)] == seen


def test_writer_waits_for_a_database_that_is_slow(
    chat_api: Api, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "MAX_UNSAVED_BYTES", 0)  # each event waits for the next save
    worker.say("a", "b")
    assert ask_stream(chat_api, background=True)[-1]["response"]["status"] == "completed"


def test_cancelled_stream_is_closed_and_kept_as_it_was(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    seen = begin(chat_api, 1)
    response = seen[0]["response"]
    cancel(chat_api, response)
    events = read_events(chat_api, response["id"])
    assert [event["type"] for event in events[-2:]] == ["response.output_item.done", "response.failed"]
    final = events[-1]["response"]
    assert (final["status"], final["output"][0]["status"]) == ("cancelled", "incomplete")
    assert wait_until(lambda: get(chat_api, response["id"])["output"]) == final["output"]
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == (UsageStatus.CANCELLED, 1)


def test_failure_in_the_middle_is_read_again_too(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", fail="invalid_request", fail_after=1, fail_message="it broke")
    events = ask_stream(chat_api, background=True)
    final = events[-1]["response"]
    assert (final["status"], final["error"]["message"]) == ("failed", "it broke")
    assert read_events(chat_api, final["id"]) == events


def test_response_whose_process_is_gone_ends_its_stream(chat_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    events = ask_stream(chat_api, background=True)
    response_id = events[0]["response"]["id"]
    long_ago = timezone.now() - kept_events.STALE_AFTER - timedelta(seconds=5)
    stored = StoredResponse.objects.get()
    stored.response = stored.response.replace('"completed"', '"in_progress"')
    stored.status, stored.heartbeat_at = "in_progress", long_ago
    stored.save()
    row = EventStream.objects.get()
    row.ended_at, row.heartbeat_at = None, long_ago
    row.save()
    last = row.segments.order_by("first").last()
    assert last is not None
    last.delete()  # what came since the last save
    monkeypatch.setattr(event_streams, "POLL_INTERVAL_S", 0.02)
    rest = read_events(chat_api, response_id)
    assert rest[:-1] == events[: last.first]
    assert (rest[-1]["type"], rest[-1]["sequence_number"]) == ("response.failed", last.first)
    assert rest[-1]["response"]["error"]["code"] == "server_error"
    assert read_events(chat_api, response_id) == rest


def test_who_may_read_and_for_how_long(chat_api: Api, settings: Any) -> None:
    response_id = ask_stream(chat_api, background=True)[0]["response"]["id"]
    assert refuse_reading(Api(chat_api.url, make_key().secret), response_id, 404)["code"] == "not_found"
    assert refuse_reading(chat_api, "resp_no", 404)["code"] == "not_found"
    assert refuse_reading(Api(chat_api.url, "wrong"), response_id, 401)["code"] == "invalid_api_key"
    for query, param in (("stream=true&starting_after=x", "starting_after"), ("starting_after=1", "starting_after")):
        assert refuse_reading(chat_api, response_id, 400, query)["param"] == param
    settings.EVENTS_RETENTION_S = 0
    assert refuse_reading(chat_api, response_id, 410)["code"] == "gone"
    EventStream.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    sweep_responses()
    assert not EventStream.objects.exists()
    error = refuse_reading(chat_api, response_id, 410)
    assert (error["code"], error["param"]) == ("gone", "stream")


def test_response_that_was_not_streamed_has_no_events(chat_api: Api) -> None:
    assert refuse_reading(chat_api, ask(chat_api)["id"], 410)["param"] == "stream"
    queued = ask(chat_api, background=True)
    wait_for(chat_api, queued, "completed")
    assert refuse_reading(chat_api, queued["id"], 410)["param"] == "stream"


def test_deleted_response_has_no_events(chat_api: Api) -> None:
    response_id = ask_stream(chat_api, background=True)[0]["response"]["id"]
    with chat_api.client() as client:
        assert client.delete(f"{PATH}/{response_id}").status_code == 200
    refuse_reading(chat_api, response_id, 404)
    assert not EventStream.objects.exists()


def test_openai_sdk_comes_back(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    with make_openai(chat_api) as client:
        with client.responses.create(model="scripted", input="hi", background=True, stream=True) as first:
            created = next(first)
            assert created.type == "response.created"
        rest = list(client.responses.retrieve(created.response.id, stream=True, starting_after=0))
    assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == "Hello"
