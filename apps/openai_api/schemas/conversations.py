"""Bodies of /v1/conversations: decoded and checked. Pure.

https://platform.openai.com/docs/api-reference/conversations
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from apps.core.errors import InvalidRequest
from apps.openai_api.parameters import check_fields
from apps.openai_api.response_items import Item, read_items
from apps.openai_api.schemas.fields import decode_body
from apps.openai_api.schemas.metadata import Metadata
from apps.openai_api.schemas.responses_shape import InputItem, convert_input

Body = TypeVar("Body", bound=Struct)

MAX_ITEMS = 20
Items = Annotated[list[InputItem], Meta(max_length=MAX_ITEMS)]


class NewConversation(Struct, frozen=True):
    """What it begins with."""

    items: Items | None = None
    metadata: Metadata | None = None


class ChangedConversation(Struct, frozen=True):
    """Its metadata, all of it."""

    metadata: Metadata | None


class NewItems(Struct, frozen=True):
    """What is appended."""

    items: Items


NEW_HONOURED = frozenset(NewConversation.__struct_fields__)
CHANGED_HONOURED = frozenset(ChangedConversation.__struct_fields__)
ITEMS_HONOURED = frozenset(NewItems.__struct_fields__)
_new_decoder = msgspec.json.Decoder(NewConversation)
_changed_decoder = msgspec.json.Decoder(ChangedConversation)
_items_decoder = msgspec.json.Decoder(NewItems)
_raw_decoder = msgspec.json.Decoder(dict[str, Raw])


def parse_conversation(body: bytes, suffix: str) -> tuple[list[Item], dict[str, str]]:
    """Items and metadata. Ids of items that have none are made of the suffix. Raises InvalidRequest."""
    given = _decode(_new_decoder, body or b"{}")
    return _complete(body, given.items or [], suffix), given.metadata or {}


def parse_metadata(body: bytes) -> dict[str, str]:
    """Raises InvalidRequest."""
    return _decode(_changed_decoder, body).metadata or {}


def parse_items(body: bytes, suffix: str) -> list[Item]:
    """As `parse_conversation`."""
    return _complete(body, _decode(_items_decoder, body).items, suffix)


def _decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    given = decode_body(decoder, body)
    raw = decode_body(_raw_decoder, body)
    check_fields(raw, frozenset(given.__struct_fields__), {})
    return given


def _complete(body: bytes, items: list[InputItem], suffix: str) -> list[Item]:
    """As they are kept. An item that no model could be told of is refused."""
    if not items:
        return []
    try:
        convert_input(items).convert()
    except InvalidRequest as error:
        error.param = error.param and error.param.replace("input", "items", 1)
        error.message = error.message.replace("'input", "'items", 1)
        raise
    return read_items(msgspec.json.decode(_raw_decoder.decode(body)["items"]), suffix, {})
