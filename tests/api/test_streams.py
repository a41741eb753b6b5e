"""A stream in bad times: waits, silence, failures before and after the first byte, and clients that leave."""

import json
from typing import Any

import pytest

from apps.registry.models import HostedModel
from apps.usage.models import UsageStatus
from gpu_worker.protocol import Delta, FailureCode
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.sse import parse_comments, parse_events, stream
from tests.scripted_worker import Answer, ScriptedWorker

CHAT = "/v1/chat/completions"
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
STREAM = HELLO | {"stream": True}
COMPLETIONS = "/v1/completions"
ONCE = {"model": "scripted", "prompt": "once"}


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ("invalid_request", None),
        ("context_length_exceeded", "context_length_exceeded"),
        ("unsupported", "unsupported_parameter"),
    ],
)
def test_failure_before_the_first_byte_is_a_status(
    chat_api: Api, worker: ScriptedWorker, failure: FailureCode, code: str | None
) -> None:
    # Also the very first request, for which the worker is dialled.
    worker.reply(Answer(fail=failure, fail_param="logit_bias", fail_message="no such token"))
    for path, body in ((CHAT, HELLO), (CHAT, STREAM), (COMPLETIONS, ONCE), (COMPLETIONS, ONCE | {"stream": True})):
        response = chat_api.post(path, body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"], error["type"]) == (code, "logit_bias", "invalid_request_error")


@pytest.mark.parametrize(("path", "body"), [(CHAT, STREAM), (COMPLETIONS, ONCE | {"stream": True})])
def test_failure_in_the_middle_is_one_event_and_no_done(
    chat_api: Api, worker: ScriptedWorker, path: str, body: dict[str, Any]
) -> None:
    worker.reply(Answer(fail="invalid_request", fail_after=2))
    text = chat_api.post(path, body).text
    *chunks, last = parse_events(text)
    assert chunks
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert text.count('"error"') == 1
    assert "[DONE]" not in text


def test_failure_in_the_middle_of_an_unstreamed_answer_is_a_status(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(fail="invalid_request", fail_after=2))
    assert chat_api.post(CHAT, HELLO).status_code == 400


def test_loading_and_queueing_are_told_in_comments(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.set_loading(0.42)
    worker.reply(Answer(deltas=(Delta("", text="hi"),), queue_positions=(3, 1)))
    with stream(chat_api, CHAT, STREAM) as response:
        assert response.status_code == 200
        lines = response.iter_text()
        text = ""
        while "loading 42%" not in text:
            text += next(lines)
        worker.set_ready()
        text += "".join(lines)
    comments = parse_comments(text)
    assert "queued 3 ahead" in comments
    assert comments.index("loading 42%") < comments.index("queued 3 ahead")
    assert parse_events(text)[-2]["choices"][0]["delta"] == {"content": "hi"}
    assert text.endswith("data: [DONE]\n\n")


def test_silence_is_broken_by_comments(chat_api: Api, worker: ScriptedWorker, settings: Any) -> None:
    settings.SSE_KEEPALIVE_S = 0.05
    worker.say("a", "b", hold_after=1)
    with stream(chat_api, CHAT, STREAM) as response:
        lines = response.iter_text()
        text = ""
        while text.count(": keep-alive\n\n") < 3:
            text += next(lines)
        worker.release()
        text += "".join(lines)
    assert [chunk["choices"][0]["delta"] for chunk in parse_events(text)][1:3] == [{"content": "a"}, {"content": "b"}]


@pytest.mark.parametrize("is_stream", [True, False])
def test_client_that_leaves_stops_its_generation(chat_api: Api, worker: ScriptedWorker, is_stream: bool) -> None:
    worker.say("a", "b", "c", hold_after=2, prompt_tokens=7)
    # On a socket of our own: an HTTP client would wait for the answer that is not streamed.
    body = json.dumps(HELLO | {"stream": is_stream}).encode()
    with chat_api.connect(CHAT, body) as connection:
        worker.wait_for(lambda worker: worker.num_sent == 2)
        connection.close()
    worker.wait_for(lambda worker: len(worker.aborted) == 1 and worker.num_running == 0)
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.prompt_tokens, row.completion_tokens) == (UsageStatus.CANCELLED, 7, 2)


def test_client_that_leaves_stops_every_prompt(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    body = json.dumps(ONCE | {"prompt": ["x", "y", "z"], "stream": True}).encode()
    with chat_api.connect(COMPLETIONS, body) as connection:
        worker.wait_for(lambda worker: worker.num_running == 3)
        connection.close()
    worker.wait_for(lambda worker: len(worker.aborted) == 3 and worker.num_running == 0)
    assert {row.status for row in wait_for_settled_rows(3)} == {UsageStatus.CANCELLED}


def test_one_failing_prompt_ends_the_others(chat_api: Api, worker: ScriptedWorker) -> None:
    bad = Answer(fail="invalid_request", fail_message="no")
    worker.answer = lambda message: bad if message.prompt == "bad" else Answer(hold_after=1)
    response = chat_api.post(COMPLETIONS, ONCE | {"prompt": ["good", "bad", "good"]})
    assert response.status_code == 400
    worker.wait_for(lambda worker: worker.num_running == 0)


def test_load_model_tells_its_progress(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.set_loading(0.25, "weights")
    with stream(chat_api, "/load_model", {"model": "scripted"}) as response:
        lines = response.iter_text()
        text = ""
        while '"current":25' not in text:  # before the worker's first word the progress is 0
            text += next(lines)
        worker.set_ready()
        text += "".join(lines)
    events = parse_events(text)
    progress = {"current": 25, "total": 100}
    assert {"status": "loading", "model": "scripted", "stage": "weights", "progress": progress} in events
    assert events[-1] == {"status": "ready", "model": "scripted", "cached": False}


def test_load_model_of_a_loaded_one_is_ready_at_once(chat_api: Api) -> None:
    chat_api.post(CHAT, HELLO)
    events = parse_events(chat_api.post("/load_model", {"model": "scripted"}).text)
    assert events == [{"status": "ready", "model": "scripted", "cached": True}]


def test_load_model_without_a_key_says_so_and_nothing_of_models(scripted_model: HostedModel, api: Api) -> None:
    answers = []
    with api.client() as client:
        del client.headers["authorization"]
        for name in ("scripted", "nobodys"):
            response = client.post("/load_model", json={"model": name})
            assert response.status_code == 200
            (event,) = parse_events(response.text)
            answers.append(event | {"model": ""})
    assert answers[0] == answers[1]
    assert answers[0]["status"] == "skipped"


def test_load_model_refuses_a_wrong_key_and_an_unknown_model(api: Api) -> None:
    with api.client() as client:
        wrong = client.post("/load_model", json={"model": "x"}, headers={"authorization": "Bearer wrong-but-long-one"})
    assert wrong.status_code == 401
    assert api.post("/load_model", {"model": "nobodys"}).status_code == 404
    assert api.post("/load_model", {}).json()["error"]["param"] == "model"
