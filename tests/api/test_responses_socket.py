"""WebSocket mode of /v1/responses: turn after turn on one connection, kept or not, and connections that end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from apps.accounts.caller_cache import caller_cache
from apps.accounts.models import APIKey
from apps.openai_api.responses_socket import MAX_WAITING
from apps.usage.models import UsageStatus
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.open_responses import check_stream
from tests.api.test_responses_state import get
from tests.api.test_sdks import make_openai
from tests.factories import make_key
from tests.scripted_worker import ScriptedWorker

CREATE = {"type": "response.create", "model": "scripted", "input": "hello"}
TIMEOUT_S = 60.0


@contextmanager
def open_socket(api: Api, path: str = "/v1/responses") -> Iterator[ClientConnection]:
    url = api.url.replace("http://", "ws://") + path
    with connect(url, additional_headers=api.headers, open_timeout=TIMEOUT_S) as socket:
        yield socket


def receive(socket: ClientConnection) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(socket.recv(TIMEOUT_S))
    return event


def send(socket: ClientConnection, **fields: Any) -> None:
    socket.send(json.dumps(CREATE | fields))


def read_events(socket: ClientConnection) -> list[dict[str, Any]]:
    """Up to the end of a response."""
    events = [receive(socket)]
    while events[-1]["type"] not in ("response.completed", "response.incomplete", "response.failed"):
        events.append(receive(socket))
    check_stream(events)
    return events


def ask(socket: ClientConnection, **fields: Any) -> dict[str, Any]:
    send(socket, **fields)
    response: dict[str, Any] = read_events(socket)[-1]["response"]
    return response


def refuse(socket: ClientConnection, message: Any) -> dict[str, Any]:
    socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
    event = receive(socket)
    assert event["type"] == "error"
    return event


def get_contents(worker: ScriptedWorker) -> list[Any]:
    """What the worker was asked last."""
    return [message["content"] for message in worker.generates[-1].messages or []]


@pytest.mark.parametrize("store", [True, False], ids=["stored", "unstored"])
def test_turns_go_on_from_one_another(chat_api: Api, worker: ScriptedWorker, store: bool) -> None:
    with open_socket(chat_api) as socket:
        worker.say("Hi")
        first = ask(socket, store=store)
        worker.say("Fine")
        second = ask(socket, store=store, input="how?", previous_response_id=first["id"])
        assert get_contents(worker) == ["hello", "Hi", "how?"]
        ask(socket, store=store, input="bye", previous_response_id=second["id"])
        assert get_contents(worker) == ["hello", "Hi", "how?", "Fine", "bye"]
    get(chat_api, first["id"], 200 if store else 404)
    rows = wait_for_settled_rows(3)
    assert {row.status for row in rows} == {UsageStatus.OK}


def test_messages_that_come_early_are_answered_in_order(chat_api: Api, worker: ScriptedWorker) -> None:
    with open_socket(chat_api, "/responses") as socket:
        for number in range(3):
            send(socket, metadata={"number": str(number)})
        responses = [read_events(socket)[-1]["response"] for _ in range(3)]
    assert [response["metadata"]["number"] for response in responses] == ["0", "1", "2"]


def test_more_messages_than_can_wait_are_refused(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    with open_socket(chat_api) as socket:
        send(socket)
        while receive(socket)["type"] != "response.output_text.delta":
            pass
        for _ in range(MAX_WAITING + 1):
            send(socket)
        event = receive(socket)
        assert (event["status"], event["error"]["code"]) == (429, "rate_limit_exceeded")
    wait_for_settled_rows(1)


def test_input_can_be_sent_ahead(chat_api: Api, worker: ScriptedWorker) -> None:
    with open_socket(chat_api) as socket:
        warm = ask(socket, generate=False, store=False, instructions="Be brief.")
        assert (warm["status"], warm["output"], worker.generates) == ("completed", [], [])
        ask(socket, input="go", store=False, previous_response_id=warm["id"])
    assert get_contents(worker) == ["hello", "go"]
    wait_for_settled_rows(1)


def test_what_is_wrong_is_an_event_and_the_connection_goes_on(chat_api: Api, worker: ScriptedWorker) -> None:
    with open_socket(chat_api) as socket:
        for message, param in (
            ("{", None),
            ({"type": "response.steer"}, "type"),
            ({}, "type"),
            (CREATE | {"background": True}, "background"),
            (CREATE | {"generate": "no"}, "generate"),
            (CREATE | {"temperature": 3}, "temperature"),
        ):
            event = refuse(socket, message)
            assert (event["status"], event["error"]["param"]) == (400, param)
        assert refuse(socket, CREATE | {"model": "none"})["error"]["code"] == "model_not_found"
        missing = refuse(socket, CREATE | {"previous_response_id": f"resp_{'0' * 24}"})
        assert (missing["status"], missing["error"]["code"]) == (400, "previous_response_not_found")
        assert ask(socket)["status"] == "completed"


def test_failure_ends_the_response_and_forgets_the_one_before(chat_api: Api, worker: ScriptedWorker) -> None:
    with open_socket(chat_api) as socket:
        first = ask(socket, store=False)
        worker.say("a", fail="invalid_request", fail_after=1, fail_message="it broke")
        failed = ask(socket, previous_response_id=first["id"], store=False)
        assert (failed["status"], failed["error"]["message"]) == ("failed", "it broke")
        again = refuse(socket, CREATE | {"previous_response_id": first["id"]})
        assert again["error"]["code"] == "previous_response_not_found"
    wait_for_settled_rows(2)


def test_who_hangs_up_stops_the_model(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    with open_socket(chat_api) as socket:
        send(socket)
        while receive(socket)["type"] != "response.output_text.delta":
            pass
    worker.wait_for(lambda worker: bool(worker.aborted))
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == (UsageStatus.CANCELLED, 1)


def test_nobody_gets_in_without_a_key(chat_api: Api) -> None:
    with pytest.raises(InvalidStatus) as caught, open_socket(Api(chat_api.url, "wrong")):
        pass
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body)["error"]["code"] == "invalid_api_key"


def test_revoked_key_gets_no_further_answer(chat_api: Api) -> None:
    with open_socket(chat_api) as socket:
        ask(socket)
        APIKey.objects.all().delete()
        caller_cache.clear()
        assert refuse(socket, CREATE)["status"] == 401
        with pytest.raises(ConnectionClosed):
            socket.recv(TIMEOUT_S)


def test_response_of_another_is_not_gone_on_from(chat_api: Api) -> None:
    with open_socket(chat_api) as socket:
        first = ask(socket)
    with open_socket(Api(chat_api.url, make_key().secret)) as socket:
        event = refuse(socket, CREATE | {"previous_response_id": first["id"]})
    assert event["error"]["code"] == "previous_response_not_found"


@pytest.mark.filterwarnings("ignore:connect\\(\\) must be used:DeprecationWarning")  # by the SDK
def test_openai_sdk(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    with make_openai(chat_api) as client, client.responses.connect(max_retries=0) as connection:
        connection.send({"type": "response.create", "model": "scripted", "input": "hi", "store": False})
        events = []
        while not events or events[-1].type != "response.completed":
            events.append(connection.recv())
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"


def read_end(socket: ClientConnection) -> None:
    """The connection has lasted as long as it may."""
    event = receive(socket)
    assert (event["type"], event["status"], event["error"]["code"]) == (
        "error",
        400,
        "websocket_connection_limit_reached",
    )
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(TIMEOUT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


def test_connection_that_lasted_long_enough_says_so_and_ends(chat_api: Api, settings: Any) -> None:
    settings.RESPONSES_SOCKET_S = 0.1
    with open_socket(chat_api) as socket:
        read_end(socket)


def test_response_that_runs_is_brought_to_its_end_first(chat_api: Api, worker: ScriptedWorker, settings: Any) -> None:
    worker.say("a", "b", hold_after=1)
    with open_socket(chat_api) as socket:
        send(socket)
        send(socket, input="too late")
        worker.wait_for(lambda worker: worker.num_running == 1)
        settings.RESPONSES_SOCKET_S = 0.0
        worker.release()
        assert read_events(socket)[-1]["type"] == "response.completed"
        read_end(socket)
    assert len(worker.generates) == 1
