"""The body of POST /load_model."""

import msgspec

from apps.openai_api.schemas.chat import read_model
from apps.openai_api.schemas.fields import decode_body


class LoadBody(msgspec.Struct, frozen=True):
    """Which model."""

    model: str | None = None


HONOURED = frozenset(LoadBody.__struct_fields__)
_decoder = msgspec.json.Decoder(LoadBody)


def parse_load(body: bytes) -> str:
    """The model's name. Raises InvalidRequest."""
    return read_model(decode_body(_decoder, body).model)
