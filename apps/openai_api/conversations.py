"""Conversations in the database: made, read and deleted by their owner, added to by responses. Blocking.

The only way to a conversation. It belongs to a person in a team: to everybody else it does not exist.
"""

import re
from datetime import timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, NotFound
from apps.core.http import encode_json
from apps.core.ids import new_conversation_id, new_id
from apps.openai_api.models import Conversation, ConversationItem
from apps.openai_api.response_items import Item, get_prefix

_ID = re.compile(r"conv_[0-9a-f]{24}")
_ITEM_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def access_conversation(caller: Caller, conversation_id: str, *, param: str | None = None) -> Conversation:
    """The caller's own. Raises NotFound for another's, exactly as for one that does not exist."""
    conversation = None
    if _ID.fullmatch(conversation_id):
        mine = Conversation.objects.filter(user_id=caller.user_id, team_id=caller.team_id)
        conversation = mine.filter(pk=conversation_id).first()
    if conversation is None:
        raise NotFound(f"Conversation with id '{conversation_id}' not found.", param=param)
    return conversation


def create_conversation(caller: Caller, items: list[Item], metadata: dict[str, str]) -> Conversation:
    """A new one that begins with these items."""
    with transaction.atomic():
        conversation = Conversation.objects.create(
            id=new_conversation_id(),
            user_id=caller.user_id,
            team_id=caller.team_id,
            metadata=encode_json(metadata).decode(),
        )
        add_items(conversation, items)
    return conversation


def set_metadata(caller: Caller, conversation_id: str, metadata: dict[str, str]) -> Conversation:
    """Replace its metadata. Raises NotFound."""
    conversation = access_conversation(caller, conversation_id)
    conversation.metadata = encode_json(metadata).decode()
    conversation.save(update_fields=["metadata"])
    return conversation


def delete_conversation(caller: Caller, conversation_id: str) -> None:
    """Forget it with its items; responses that were made in it stay. Raises NotFound."""
    access_conversation(caller, conversation_id).delete()


def add_items(conversation: Conversation, items: list[Item]) -> list[Item]:
    """Append, in one go. An item whose id is taken, or cannot be one, gets another. Returns them as they are kept."""
    with transaction.atomic():
        given = [item["id"] for item in items if _ITEM_ID.fullmatch(item["id"])]
        # Locked: two responses at once would give one id to two items.
        Conversation.objects.select_for_update().filter(pk=conversation.pk).first()
        taken = set(conversation.items.filter(item_id__in=given).values_list("item_id", flat=True))
        kept: list[Item] = []
        for item in items:
            is_free = item["id"] not in taken and _ITEM_ID.fullmatch(item["id"])
            kept.append(item if is_free else {**item, "id": new_id(f"{get_prefix(item)}_")})
            taken.add(kept[-1]["id"])
        rows = [
            ConversationItem(conversation=conversation, item_id=item["id"], item=encode_json(item).decode())
            for item in kept
        ]
        ConversationItem.objects.bulk_create(rows)
        Conversation.objects.filter(pk=conversation.pk).update(used_at=timezone.now())
    return kept


def add_turn(conversation_id: str, given: list[Item], response: dict[str, Any]) -> None:
    """Append what a response answered and said. Nothing happens where the conversation is gone."""
    conversation = Conversation.objects.filter(pk=conversation_id).first()
    if conversation is not None:
        add_items(conversation, [*given, *response["output"]])


def load_items(caller: Caller, conversation_id: str) -> list[Item]:
    """All of them, the oldest first. Raises NotFound that names the field of a request."""
    conversation = access_conversation(caller, conversation_id, param="conversation")
    return [msgspec.json.decode(item) for item in conversation.items.values_list("item", flat=True)]


def list_items(
    caller: Caller, conversation_id: str, *, after: str | None, limit: int, is_descending: bool
) -> list[Item]:
    """Some of them. Raises NotFound, and InvalidRequest for an `after` that is not there."""
    conversation = access_conversation(caller, conversation_id)
    rows = conversation.items.order_by("-pk" if is_descending else "pk")
    if after:
        place = _find(conversation, after)
        if place is None:
            raise InvalidRequest(f"'after': there is no item '{after}'.", param="after")
        rows = rows.filter(pk__lt=place.pk) if is_descending else rows.filter(pk__gt=place.pk)
    return [msgspec.json.decode(item) for item in rows.values_list("item", flat=True)[:limit]]


def access_item(caller: Caller, conversation_id: str, item_id: str) -> ConversationItem:
    """One item. Raises NotFound."""
    item = _find(access_conversation(caller, conversation_id), item_id)
    if item is None:
        raise NotFound(f"Item with id '{item_id}' not found in conversation '{conversation_id}'.")
    return item


def sweep_conversations() -> int:
    """Delete those that nobody used for as long as responses are kept. Safe to run anywhere, any time."""
    if not settings.RESPONSES_RETENTION_DAYS:
        return 0
    cutoff = timezone.now() - timedelta(days=settings.RESPONSES_RETENTION_DAYS)
    return Conversation.objects.filter(used_at__lt=cutoff).delete()[0]


def describe(conversation: Conversation) -> dict[str, Any]:
    """OpenAI's conversation object."""
    return {
        "id": conversation.pk,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": msgspec.json.decode(conversation.metadata),
    }


def _find(conversation: Conversation, item_id: str) -> ConversationItem | None:
    return conversation.items.filter(item_id=item_id).first() if _ITEM_ID.fullmatch(item_id) else None
