"""Responses that are kept: gone on from, read, listed, deleted, forgotten, and nobody else's."""

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone

from apps.openai_api.models import StoredResponse
from apps.openai_api.tasks import sweep_responses
from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api
from tests.api.open_responses import check_item, check_response
from tests.api.test_responses import HELLO, PATH, WEATHER, ask, ask_stream, refuse
from tests.factories import make_key, make_user
from tests.scripted_worker import Answer, ScriptedWorker

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def get(api: Api, path: str, status: int = 200, **params: Any) -> Any:
    with api.client() as client:
        response = client.get(f"{PATH}/{path}", params=params)
    assert response.status_code == status, response.text
    return response.json()


def list_ids(api: Api, path: str, **params: Any) -> list[str]:
    page = get(api, f"{path}/input_items", **params)
    assert page["object"] == "list"
    return [item["id"] for item in page["data"]]


def test_answer_goes_on_from_an_earlier_one(chat_api: Api, worker: ScriptedWorker) -> None:
    call = ToolCallDelta(0, "call_1", "weather", "{}")
    worker.reply(Answer(deltas=(Delta("", reasoning="hm"), Delta("", tool_calls=[call])), reason="tool_calls"))
    first = ask(chat_api, instructions="be brief", tools=[WEATHER])
    worker.say("sun", "ny")
    result = {"type": "function_call_output", "call_id": "call_1", "output": "sun"}
    second = ask_stream(chat_api, input=[result], previous_response_id=first["id"])[-1]["response"]
    third = ask(chat_api, input="thanks", previous_response_id=second["id"], instructions="be kind")
    assert third["previous_response_id"] == second["id"]
    function = {"name": "weather", "arguments": "{}"}
    assert worker.generates[2].messages == [
        {"role": "system", "content": "be kind"},  # those of earlier responses do not count
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "sun", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "sunny"},
        {"role": "user", "content": "thanks"},
    ]


def test_kept_response_is_the_one_that_was_answered(chat_api: Api) -> None:
    whole = ask(chat_api, metadata={"a": "\0"})
    assert get(chat_api, whole["id"]) == whole
    streamed = ask_stream(chat_api)[-1]["response"]
    assert get(chat_api, streamed["id"]) == streamed
    check_response(get(chat_api, streamed["id"]))


def test_response_that_is_not_to_be_kept_is_not(chat_api: Api) -> None:
    answer = ask(chat_api, store=False)
    assert answer["store"] is False
    assert get(chat_api, answer["id"], 404)["error"]["code"] == "not_found"
    assert refuse(chat_api, previous_response_id=answer["id"])["code"] == "previous_response_not_found"
    assert not StoredResponse.objects.exists()


def test_failed_response_is_not_kept(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", fail="invalid_request", fail_after=1)
    assert ask_stream(chat_api)[-1]["type"] == "response.failed"
    assert not StoredResponse.objects.exists()


def test_deleted_response_is_gone(chat_api: Api) -> None:
    first = ask(chat_api)
    second = ask(chat_api, previous_response_id=first["id"])
    with chat_api.client() as client:
        answer = client.delete(f"{PATH}/{first['id']}")
        assert answer.json() == {"id": first["id"], "object": "response", "deleted": True}
        assert client.delete(f"{PATH}/{first['id']}").status_code == 404
    get(chat_api, first["id"], 404)
    error = refuse(chat_api, previous_response_id=second["id"])
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
    assert first["id"] in error["message"]
    assert len(get(chat_api, f"{second['id']}/input_items")["data"]) == 1


@pytest.mark.parametrize("same_team", [True, False], ids=["colleague", "stranger"])
def test_outsider_gets_404(chat_api: Api, same_team: bool) -> None:
    answer = ask(chat_api)
    team = StoredResponse.objects.get().team
    key = make_key(team=team, user=make_user(team=team)) if same_team else make_key()
    other = Api(chat_api.url, key.secret)
    get(other, answer["id"], 404)
    get(other, f"{answer['id']}/input_items", 404)
    with other.client() as client:
        assert client.delete(f"{PATH}/{answer['id']}").status_code == 404
    assert refuse(other, previous_response_id=answer["id"])["code"] == "previous_response_not_found"
    reference = [{"type": "item_reference", "id": answer["output"][0]["id"]}]
    assert "not found" in refuse(other, input=reference)["message"]
    assert StoredResponse.objects.exists()


def test_nobody_gets_401(chat_api: Api) -> None:
    answer = ask(chat_api)
    with chat_api.client() as client:
        del client.headers["authorization"]
        for path in (answer["id"], f"{answer['id']}/input_items"):
            assert client.get(f"{PATH}/{path}").status_code == 401


def test_item_may_be_named_instead_of_sent(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("one")
    first = ask(chat_api)
    (given,) = list_ids(chat_api, first["id"])
    reference = [{"type": "item_reference", "id": item_id} for item_id in (given, first["output"][0]["id"])]
    second = ask(chat_api, input=[*reference, {"role": "user", "content": "again"}])
    assert [message["content"] for message in worker.generates[1].messages or []] == ["hello", "one", "again"]
    assert list_ids(chat_api, second["id"], order="asc")[:2] == [item["id"] for item in reference]
    unknown = [{"type": "item_reference", "id": "msg_1"}]
    assert refuse(chat_api, input=unknown)["param"] == "input"


def test_input_items_have_ids_and_parts(chat_api: Api, worker: ScriptedWorker) -> None:
    items = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]},
        {"role": "assistant", "content": "b"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "d"}]},
    ]
    answer = ask(chat_api, input=items)
    shown = get(chat_api, f"{answer['id']}/input_items", order="asc")["data"]
    for item in shown:
        check_item(item)
    assert [item["type"] for item in shown] == ["message"] * 3 + ["reasoning", "function_call", "function_call_output"]
    assert len({item["id"] for item in shown}) == 6
    assert shown[0]["content"] == [{"type": "input_text", "text": "a"}]
    assert shown[1]["content"] == [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}]
    assert shown[2]["content"] == [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}]


def test_input_items_come_in_pages(chat_api: Api) -> None:
    first = ask(chat_api)
    items = [{"role": "user", "content": str(number), "id": f"msg_{number}"} for number in range(3)]
    path = ask(chat_api, input=items, previous_response_id=first["id"])["id"]
    latest = ["msg_2", "msg_1", "msg_0", first["output"][0]["id"]]
    assert list_ids(chat_api, path)[:4] == latest
    page = get(chat_api, f"{path}/input_items", limit=2)
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("msg_2", "msg_1", True)
    page = get(chat_api, f"{path}/input_items", limit=3, after="msg_1")
    assert [item["id"] for item in page["data"]][:2] == latest[2:]
    assert page["has_more"] is False
    assert list_ids(chat_api, path, order="asc", limit=1, after=latest[3]) == ["msg_0"]
    for params, name in (({"limit": 0}, "limit"), ({"limit": "x"}, "limit"), ({"order": "up"}, "order")):
        assert get(chat_api, f"{path}/input_items", 400, **params)["error"]["param"] == name
    assert get(chat_api, f"{path}/input_items", 400, after="msg_9")["error"]["param"] == "after"


@pytest.mark.parametrize(
    "response_id", ["resp_", "resp_\0", "x" * 5000, "응답"], ids=["short", "nul", "long", "korean"]
)
def test_text_that_is_no_id_is_not_found(chat_api: Api, response_id: str) -> None:
    get(chat_api, quote(response_id), 404)
    get(chat_api, f"{quote(response_id)}/input_items", 404)
    assert refuse(chat_api, previous_response_id=response_id)["code"] == "previous_response_not_found"


@pytest.mark.parametrize(("name", "status"), [("stream", 410), ("starting_after", 400)])
def test_kept_response_is_not_streamed(chat_api: Api, name: str, status: int) -> None:
    answer = ask(chat_api)
    assert get(chat_api, answer["id"], status, **{name: "true"})["error"]["param"] == name


def test_old_responses_are_forgotten(chat_api: Api, settings: Any) -> None:
    old, new = ask(chat_api), ask(chat_api)
    StoredResponse.objects.filter(pk=old["id"]).update(created_at=timezone.now() - timedelta(days=31))
    settings.RESPONSES_RETENTION_DAYS = 0
    sweep_responses()
    assert StoredResponse.objects.count() == 2
    settings.RESPONSES_RETENTION_DAYS = 30
    sweep_responses()
    assert [row.pk for row in StoredResponse.objects.all()] == [new["id"]]


def test_response_that_cannot_be_kept_fails(chat_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("apps.openai_api.response_answers.save_response", fail)
    assert chat_api.post(PATH, HELLO).status_code == 500
    events = ask_stream(chat_api)
    assert (events[-1]["type"], events[-1]["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert "disk" not in str(events[-1])
