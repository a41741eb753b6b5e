"""Responses in the database: kept, read by their owner, deleted, forgotten after a while. Blocking.

The only way to a stored response. It belongs to a person in a team: to everybody else it does not exist.
"""

import re
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, NotFound
from apps.core.http import encode_json
from apps.openai_api.conversations import add_turn, load_items
from apps.openai_api.kept_events import delete_stream
from apps.openai_api.models import ResponseStatus, StoredResponse
from apps.openai_api.response_items import Item, read_items

_ID = re.compile(r"resp_[0-9a-f]{24}")
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{24})_(?:in)?[0-9]+")


class Context(NamedTuple):
    """What a request builds on."""

    history: list[Item]  # of the responses before it, the oldest first
    referenced: dict[str, Item]  # items of whatever response, by their ids


def access_response(caller: Caller, response_id: str) -> StoredResponse:
    """The caller's own response. Raises NotFound for another's, exactly as for one that does not exist."""
    response = _list_responses(caller, response_id).first()
    if response is None:
        raise NotFound(f"There is no response with the id '{response_id}'.")
    return response


def save_response(caller: Caller, response: dict[str, Any], raw_input: bytes, referenced: dict[str, Item]) -> None:
    """Keep a response that has ended, or one that begins in the background, with its input as it was sent.

    One that has ended goes into its conversation, whether it is stored or not.
    """
    items = read_items(msgspec.json.decode(raw_input), response["id"], referenced)
    with transaction.atomic():
        if response["store"]:
            StoredResponse.objects.create(
                id=response["id"],
                user_id=caller.user_id,
                team_id=caller.team_id,
                previous_id=response["previous_response_id"] or "",
                status=response["status"],
                response=encode_json(response).decode(),
                input=encode_json(items).decode(),
            )
        add_to_conversation(response, items)


def add_to_conversation(response: dict[str, Any], items: list[Item]) -> None:
    """Where it has one and is an answer: its input's items, and its own."""
    if response["conversation"] and response["status"] in (ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE):
        add_turn(response["conversation"]["id"], items, response)


def delete_response(caller: Caller, response_id: str) -> None:
    """Raises NotFound. A response that goes on from it cannot be gone on from any more."""
    access_response(caller, response_id).delete()
    delete_stream(response_id)


def load_context(
    caller: Caller, previous_id: str | None, references: list[str], conversation_id: str | None = None
) -> Context:
    """Raises InvalidRequest or NotFound where one of these is not there, or not the caller's."""
    if conversation_id is not None:
        history = load_items(caller, conversation_id)
        said = {item["id"]: item for item in history}
        found = {name: said[name] for name in references if name in said}
        return Context(history, found | _find_items(caller, [name for name in references if name not in said]))
    history, missing_id = _collect_history(caller, previous_id or "")
    if missing_id:
        message = f"Previous response with id '{missing_id}' not found, or not completed."
        raise InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")
    return Context(history, _find_items(caller, references))


def list_input(caller: Caller, response_id: str) -> list[Item]:
    """All that the response answered: the conversation before it, then its own input. Raises NotFound."""
    row = access_response(caller, response_id)
    return _collect_history(caller, row.previous_id)[0] + msgspec.json.decode(row.input)


def sweep() -> int:
    """Delete what is older than it is kept. Returns how many. Safe to run anywhere, any time."""
    if not settings.RESPONSES_RETENTION_DAYS:
        return 0
    cutoff = timezone.now() - timedelta(days=settings.RESPONSES_RETENTION_DAYS)
    return StoredResponse.objects.filter(created_at__lt=cutoff).delete()[0]


def _list_ended(caller: Caller, *response_ids: str) -> QuerySet[StoredResponse]:
    """Those that a conversation can go on from."""
    return _list_responses(caller, *response_ids).filter(
        status__in=(ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE)
    )


def _list_responses(caller: Caller, *response_ids: str) -> QuerySet[StoredResponse]:
    """The caller's own among these. A text that cannot be an id, with a NUL for one, does not reach the database."""
    possible = [response_id for response_id in response_ids if _ID.fullmatch(response_id)]
    return StoredResponse.objects.filter(user_id=caller.user_id, team_id=caller.team_id, pk__in=possible)


def _collect_history(caller: Caller, response_id: str) -> tuple[list[Item], str]:
    """Input and output of the response and of all before it, the oldest first, and the id of one that is missing."""
    turns: list[list[Item]] = []
    while response_id:
        row = _list_ended(caller, response_id).values_list("previous_id", "input", "response").first()
        if row is None:
            break
        response_id, given, response = row
        turns.append(msgspec.json.decode(given) + msgspec.json.decode(response)["output"])
    return [item for items in reversed(turns) for item in items], response_id


def _find_items(caller: Caller, item_ids: list[str]) -> dict[str, Item]:
    """The id of an item names its response."""
    response_ids = {f"resp_{match[1]}" for item_id in item_ids if (match := _ITEM_ID.fullmatch(item_id))}
    found: dict[str, Item] = {}
    for given, response in _list_ended(caller, *response_ids).values_list("input", "response"):
        items = msgspec.json.decode(given) + msgspec.json.decode(response)["output"]
        found |= {item["id"]: item for item in items}
    if missing := [item_id for item_id in item_ids if item_id not in found]:
        raise InvalidRequest(f"Item with id '{missing[0]}' not found.", param="input")
    return {item_id: found[item_id] for item_id in item_ids}
