"""Conversations: made, read, changed and deleted by their owner; responses go on from them and add to them."""

from datetime import timedelta
from typing import Any

import openai
import pytest
from django.utils import timezone
from openai.types.conversations import Conversation as SdkConversation
from openai.types.conversations import ConversationItem as SdkItem
from pydantic import TypeAdapter

from apps.openai_api.models import Conversation, ConversationItem
from apps.openai_api.tasks import sweep_responses
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.test_responses import HELLO, PATH, ask, ask_stream, refuse
from tests.api.test_responses_background import ended_runs, wait_for
from tests.api.test_sdks import make_openai
from tests.factories import make_key
from tests.scripted_worker import ScriptedWorker

__all__ = ["ended_runs"]  # a fixture that every test here uses

CONVERSATIONS = "/v1/conversations"
USER = {"role": "user", "content": "hi"}
_ITEM: TypeAdapter[Any] = TypeAdapter(SdkItem)


def call(api: Api, method: str, path: str, body: Any = None, status: int = 200, **query: Any) -> dict[str, Any]:
    with api.client() as client:
        response = client.request(method, f"{CONVERSATIONS}{path}", json=body, params=query)
    assert response.status_code == status, response.text
    return response.json()


def create(api: Api, **body: Any) -> str:
    made = call(api, "POST", "", body)
    SdkConversation.model_validate(made, extra="forbid")
    return str(made["id"])


def list_items(api: Api, conversation_id: str, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = call(api, "GET", f"/{conversation_id}/items", **{"order": "asc"} | query)["data"]
    for item in items:
        _ITEM.validate_python(item)
    return items


def read_texts(items: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for item in items for part in item.get("content", [])]


def test_metadata_is_set_replaced_and_forgotten(api: Api) -> None:
    conversation_id = create(api, metadata={"a": "b"})
    assert call(api, "GET", f"/{conversation_id}")["metadata"] == {"a": "b"}
    assert call(api, "POST", f"/{conversation_id}", {"metadata": {"c": "d"}})["metadata"] == {"c": "d"}
    deleted = call(api, "DELETE", f"/{conversation_id}")
    assert deleted == {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
    call(api, "GET", f"/{conversation_id}", status=404)


def test_items_are_added_listed_in_pages_and_deleted(api: Api) -> None:
    conversation_id = create(api, items=[USER])
    path = f"/{conversation_id}/items"
    given = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"role": "user", "content": "more", "id": "msg_mine"},
        {"role": "user", "content": "and more", "id": "msg_mine"},
    ]
    added = call(api, "POST", path, {"items": given})
    assert (added["object"], len(added["data"]), added["has_more"]) == ("list", 5, False)
    items = list_items(api, conversation_id)
    assert read_texts(items) == ["hi", "hello", "more", "and more"]
    ids = [item["id"] for item in items]
    assert len(set(ids)) == 6
    assert "msg_mine" in ids
    assert [item["id"] for item in list_items(api, conversation_id, order="desc", limit=2)] == ids[:-3:-1]
    assert [item["id"] for item in list_items(api, conversation_id, after=ids[3])] == ids[4:]
    assert [item["id"] for item in list_items(api, conversation_id, after=ids[3], order="desc")] == ids[2::-1]
    assert call(api, "GET", f"{path}/{ids[0]}") == items[0]
    assert call(api, "DELETE", f"{path}/{ids[0]}")["id"] == conversation_id
    call(api, "GET", f"{path}/{ids[0]}", status=404)
    assert len(list_items(api, conversation_id)) == 5


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [{"type": "web_search_call"}]}, "items[0]"),
        ({"items": [USER, {"role": "user"}]}, "items[1].content"),
        ({"items": [USER] * 21}, "items"),
        ({"items": 3}, "items"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metdata": {}}, "metdata"),
    ],
    ids=["type", "content", "many", "number", "metadata", "unknown"],
)
def test_what_is_wrong_is_named(api: Api, body: Any, param: str) -> None:
    assert call(api, "POST", "", body, 400)["error"]["param"] == param
    assert not Conversation.objects.exists()


def test_everything_belongs_to_its_owner(api: Api) -> None:
    conversation_id = create(api, items=[USER])
    (item,) = list_items(api, conversation_id)
    other = Api(api.url, make_key().secret)
    path = f"/{conversation_id}"
    for method, rest, body in (
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [USER]}),
        ("GET", f"/items/{item['id']}", None),
        ("DELETE", f"/items/{item['id']}", None),
    ):
        call(other, method, path + rest, body, 404)
        call(Api(api.url, "wrong"), method, path + rest, body, 401)
    assert list_items(api, conversation_id) == [item]
    call(api, "GET", "/conv_%00", status=404)


@pytest.mark.parametrize("form", ["id", "object"])
def test_responses_go_on_from_it_and_add_to_it(chat_api: Api, worker: ScriptedWorker, form: str) -> None:
    conversation_id = create(chat_api, items=[{"role": "user", "content": "I am Ann."}])
    given = conversation_id if form == "id" else {"id": conversation_id}
    worker.say("Hi Ann")
    answer = ask(chat_api, conversation=given)
    assert answer["conversation"] == {"id": conversation_id}
    worker.say("Bye")
    ask_stream(chat_api, conversation=given, input="bye", store=False)
    said = [message["content"] for message in worker.generates[1].messages or []]
    assert said == ["I am Ann.", "hello", "Hi Ann", "bye"]
    assert read_texts(list_items(chat_api, conversation_id)) == [*said, "Bye"]


def test_response_in_the_background_adds_its_turn_at_its_end(chat_api: Api, worker: ScriptedWorker) -> None:
    conversation_id = create(chat_api)
    worker.say("later")
    wait_for(chat_api, ask(chat_api, conversation=conversation_id, background=True), "completed")
    assert read_texts(list_items(chat_api, conversation_id)) == ["hello", "later"]


def test_answer_that_failed_adds_nothing(chat_api: Api, worker: ScriptedWorker) -> None:
    conversation_id = create(chat_api)
    worker.say("a", fail="invalid_request", fail_after=1)
    ask_stream(chat_api, conversation=conversation_id)
    wait_for(chat_api, ask(chat_api, conversation=conversation_id, background=True), "failed")
    assert list_items(chat_api, conversation_id) == []
    wait_for_settled_rows(2)


def test_item_of_it_can_be_named_instead_of_repeated(chat_api: Api, worker: ScriptedWorker) -> None:
    conversation_id = create(chat_api, items=[USER])
    (item,) = list_items(chat_api, conversation_id)
    ask(chat_api, conversation=conversation_id, input=[{"type": "item_reference", "id": item["id"]}])
    assert [message["content"] for message in worker.generates[0].messages or []] == ["hi", "hi"]
    items = list_items(chat_api, conversation_id)
    assert len({item["id"] for item in items}) == len(items) == 3


def test_conversation_that_cannot_be_used_is_named(chat_api: Api) -> None:
    conversation_id = create(chat_api)
    first = ask(chat_api)
    both = refuse(chat_api, conversation=conversation_id, previous_response_id=first["id"])
    assert both["param"] == "previous_response_id"
    for body in ({"conversation": "conv_none"}, {"conversation": f"conv_{'0' * 24}"}):
        response = chat_api.post(PATH, HELLO | body)
        assert (response.status_code, response.json()["error"]["param"]) == (404, "conversation")
    other = Api(chat_api.url, make_key().secret)
    assert other.post(PATH, HELLO | {"conversation": conversation_id}).status_code == 404


def test_old_conversations_are_forgotten(api: Api) -> None:
    old, new = create(api, items=[USER]), create(api)
    Conversation.objects.filter(pk=old).update(used_at=timezone.now() - timedelta(days=31))
    sweep_responses()
    assert list(Conversation.objects.values_list("pk", flat=True)) == [new]
    assert not ConversationItem.objects.exists()


def test_openai_sdk(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hello")
    with make_openai(chat_api) as client:
        conversation = client.conversations.create(items=[{"role": "user", "content": "hi"}], metadata={"a": "b"})
        client.responses.create(model="scripted", input="again", conversation=conversation.id)
        items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
        assert [item.type for item in items] == ["message"] * 3
        assert client.conversations.items.retrieve(items[0].id, conversation_id=conversation.id) == items[0]
        client.conversations.items.delete(items[0].id, conversation_id=conversation.id)
        client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "more"}])
        assert client.conversations.update(conversation.id, metadata={}).metadata == {}
        assert client.conversations.delete(conversation.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.conversations.retrieve(conversation.id)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'"' + b"a" * 5000 + b'"', 413),
        (b"", 200),
        (b'{"metadata":{"a":"\\ud800"}}', 400),
        (b'{"metadata":{"a":"\\u0000"}}', 200),
    ],
    ids=["malformed", "bytes", "list", "deep", "large", "empty", "surrogate", "nul"],
)
def test_any_body_has_its_answer(api: Api, settings: Any, body: bytes, status: int) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 4000 if status == 413 else settings.MAX_BODY_BYTES
    with api.client() as client:
        response = client.post(CONVERSATIONS, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
