"""Chat streams that can be read again with Last-Event-ID: in this process and in another, for a while."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.inference import runs
from apps.openai_api import chat_runs
from apps.openai_api.models import EventStream
from apps.usage.models import UsageStatus
from tests.api.conftest import Api, wait_for_settled_rows, wait_until
from tests.api.sse import parse_comments, stream
from tests.factories import make_key
from tests.scripted_worker import Answer, ScriptedWorker
from tests.web_process import (
    SECRET,
    WebProcess,
    find_free_port,
    run_python,
    run_web_process,
    start_uvicorn,
    stop_process,
)

CHAT = "/v1/chat/completions"
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}], "stream": True}
RESUMABLE = HELLO | {"stream_options": {"resumable": True}}
_EVENT = re.compile(r"id: (\S+)\ndata: (.*)")
_FORGET = """
import django
django.setup()
from apps.openai_api.models import EventStream
EventStream.objects.all().delete()
"""
_COUNT = """
import django
django.setup()
from apps.openai_api.models import EventSegment
print(*EventSegment.objects.filter(end__gte=3).values_list("end", flat=True))
"""
_AGE = """
import django
django.setup()
from datetime import timedelta
from apps.openai_api.models import EventStream
EventStream.objects.update(heartbeat_at=EventStream.objects.get().heartbeat_at - timedelta(minutes=5))
"""


@pytest.fixture(autouse=True)
def ended_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Beats come soon, and no run outlives its test."""
    monkeypatch.setattr(chat_runs.ResumableChat, "beat_interval_s", 0.05)
    yield
    wait_until(lambda: not runs._runs)


def parse(text: str) -> list[tuple[str, str]]:
    """Id and data of every event; comments are left out."""
    return [_find(block) for block in text.split("\n\n") if block and not block.startswith(":")]


def _find(block: str) -> tuple[str, str]:
    match = _EVENT.fullmatch(block)
    assert match, block
    return match[1], match[2]


def read_whole(api: Api, **fields: Any) -> list[tuple[str, str]]:
    response = api.post(CHAT, RESUMABLE | fields)
    assert response.status_code == 200, response.text
    return parse(response.text)


def begin(api: Api, num_events: int) -> list[tuple[str, str]]:
    """Ask for a stream and leave it after so many events. Returns them."""
    events = []
    with stream(api, CHAT, RESUMABLE) as response:
        lines = iter(response.iter_lines())
        for line in lines:
            if line.startswith("id: "):
                events.append(_find(f"{line}\n{next(lines)}"))
                if len(events) == num_events:
                    return events
    raise AssertionError("the stream ended early")


def resume(api: Api, event_id: str) -> httpx.Response:
    with api.client() as client:
        return client.post(CHAT, json=RESUMABLE, headers={"last-event-id": event_id})


def test_events_have_ids_and_are_else_those_of_any_stream(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    events = read_whole(chat_api, stream_options={"resumable": True, "include_usage": True})
    (name,) = {event_id.split(":")[0] for event_id, _ in events}
    assert [event_id for event_id, _ in events] == [f"{name}:{number}" for number in range(len(events))]
    plain = chat_api.post(CHAT, HELLO | {"stream_options": {"include_usage": True}}).text
    assert "id: " not in plain
    blocks = [block.removeprefix("data: ") for block in plain.split("\n\n") if block]

    def forget_names(data: str) -> str:
        return re.sub(r'"(id|created)":[^,]+', "", data)

    assert [forget_names(data) for _, data in events] == [forget_names(block) for block in blocks]
    rows = wait_for_settled_rows(2)
    assert [row.status for row in rows] == [UsageStatus.OK] * 2


def test_reader_that_comes_back_gets_the_rest_once_and_in_order(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", "c", "d", hold_after=2)
    seen = begin(chat_api, 2)
    worker.release()
    rest = parse(resume(chat_api, seen[-1][0]).text)
    events = seen + rest
    assert [int(event_id.split(":")[1]) for event_id, _ in events] == list(range(len(events)))
    assert events[-1][1] == "[DONE]"
    assert "".join(re.findall(r'"content":"(\w)"', str(events))) == "abcd"
    for number, (event_id, _) in enumerate(events):
        assert parse(resume(chat_api, event_id).text) == events[number + 1 :]
    assert worker.aborted == []
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == (UsageStatus.OK, 4)


def test_answer_whose_reader_stays_away_is_cut(chat_api: Api, worker: ScriptedWorker, settings: Any) -> None:
    settings.RESUME_WITHIN_S = 0.1
    worker.say("a", "b", hold_after=1)
    seen = begin(chat_api, 2)
    worker.wait_for(lambda worker: bool(worker.aborted))
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == (UsageStatus.CANCELLED, 1)
    (_, told), *more = parse(resume(chat_api, seen[-1][0]).text)
    assert '"code":"reader_gone"' in told
    assert more == []


def test_reader_that_stays_keeps_its_answer(chat_api: Api, worker: ScriptedWorker, settings: Any) -> None:
    settings.RESUME_WITHIN_S = 0.05
    worker.say("a", "b", hold_after=1)
    with stream(chat_api, CHAT, RESUMABLE) as response:
        text = response.iter_text()
        wait_until(lambda: '"content":"a"' in next(text))
        row = EventStream.objects.get()
        wait_until(lambda: EventStream.objects.get().heartbeat_at > row.heartbeat_at)
        worker.release()
        assert "".join(text).endswith("data: [DONE]\n\n")


def test_failures_are_those_of_any_stream(chat_api: Api, worker: ScriptedWorker) -> None:
    read_whole(chat_api)  # the worker is dialled: who has to wait for that gets the refusal as an event
    worker.reply(Answer(fail="invalid_request", fail_param="logit_bias", fail_message="no such token"))
    response = chat_api.post(CHAT, RESUMABLE)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias")
    assert chat_api.post(CHAT, RESUMABLE | {"model": "none"}).status_code == 404
    worker.say("a", fail="invalid_request", fail_after=1, fail_message="it broke")
    events = read_whole(chat_api)
    assert "it broke" in events[-1][1]
    assert parse(resume(chat_api, events[0][0]).text) == events[1:]
    wait_for_settled_rows(3)  # an unknown model has none


def test_wait_is_told_to_the_live_reader(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer.of("a", queue_positions=tuple(range(2000, 0, -1))))
    text = chat_api.post(CHAT, RESUMABLE).text
    assert parse_comments(text)[0].startswith("queued")
    assert parse(text)[-1][1] == "[DONE]"


def test_only_its_owner_reads_it_and_for_so_long(chat_api: Api, settings: Any) -> None:
    event_id = read_whole(chat_api)[0][0]
    assert resume(Api(chat_api.url, make_key().secret), event_id).status_code == 404
    assert resume(chat_api, f"chatcmpl-{'0' * 24}:0").status_code == 404
    wrong = resume(chat_api, "17")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")
    settings.EVENTS_RETENTION_S = 0
    gone = resume(chat_api, event_id)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "gone")


def test_text_completions_refuse_it_by_name(chat_api: Api) -> None:
    body = {"model": "scripted", "prompt": "once", "stream": True, "stream_options": {"resumable": True}}
    response = chat_api.post("/v1/completions", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stream_options.resumable")


def test_server_that_stops_ends_the_stream_for_good(
    chat_api: Api, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.say("a", "b", hold_after=1)
    seen = begin(chat_api, 2)
    (run,) = runs._runs
    run._task.get_loop().call_soon_threadsafe(run.cancel)
    rest = parse(resume(chat_api, seen[-1][0]).text)
    assert [('"code":"service_unavailable"' in data) for _, data in rest] == [True]
    wait_for_settled_rows(1)


@pytest.fixture
def web(tmp_path: Path, worker: ScriptedWorker) -> Iterator[WebProcess]:
    """A web process on a database of its own."""
    with run_web_process(tmp_path, worker_ports=[worker.port], worker_token=worker.token) as web:
        yield web


@pytest.mark.slow
def test_another_process_goes_on_with_it_also_when_the_first_is_killed(web: WebProcess, worker: ScriptedWorker) -> None:
    port = find_free_port()
    second = start_uvicorn("project.asgi:application", port, web.environment)
    try:
        first_api, second_api = Api(web.url, SECRET), Api(f"http://127.0.0.1:{port}", SECRET)
        worker.say("a", "b", "c", hold_after=2)
        seen = begin(first_api, 1)
        with (
            second_api.client() as client,
            client.stream("POST", CHAT, json=RESUMABLE, headers={"last-event-id": seen[0][0]}) as response,
        ):
            text = response.iter_text()
            began = "".join(itertools.islice(text, 1))  # what there is, before the end
            while '"content":"b"' not in began:
                began += next(text)
            worker.release()
            rest = parse(began + "".join(text))
        events = seen + rest
        assert [int(event_id.split(":")[1]) for event_id, _ in events] == list(range(len(events)))
        assert events[-1][1] == "[DONE]"
        run_python(web.environment, "-c", _FORGET)
        worker.say("a", "b", "c", hold_after=2)
        seen = begin(first_api, 3)
        wait_until(lambda: len(run_python(web.environment, "-c", _COUNT).split()) > 0)
        web.kill()
        run_python(web.environment, "-c", _AGE)
        rest = parse(resume(second_api, seen[-1][0]).text)
        assert [('"code":"service_unavailable"' in data) for _, data in rest] == [True]
        assert rest[0][0].endswith(":3")
    finally:
        stop_process(second)
