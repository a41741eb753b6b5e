"""A message of WebSocket mode: the body of POST /v1/responses in an envelope. Pure."""

import msgspec

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.core.http import encode_json
from apps.openai_api.schemas.fields import decode_body
from apps.openai_api.schemas.responses import ResponsesCall, parse_response

_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENVELOPE = ("type", "event_id", "generate", "stream", "background")


def parse_message(message: bytes, caller: Caller) -> tuple[ResponsesCall, bool]:
    """The call, and whether it is to be answered, not only prepared. Raises InvalidRequest or UnsupportedParameter."""
    raw = decode_body(_raw_decoder, message)
    if (kind := _read(raw, "type")) != "response.create":
        if kind == "response.steer":
            raise UnsupportedParameter("'type': a response that runs is not steered here.", param="type")
        raise InvalidRequest("'type' must be \"response.create\".", param="type")
    if _read(raw, "background"):
        raise UnsupportedParameter("'background' is for POST requests.", param="background")
    if (generates := _read(raw, "generate")) not in (None, True, False):
        raise InvalidRequest("'generate' must be true or false.", param="generate")
    body = {name: value for name, value in raw.items() if name not in _ENVELOPE}
    return parse_response(encode_json({**body, "stream": True}), caller), generates is not False


def _read(raw: dict[str, msgspec.Raw], name: str) -> object:
    return msgspec.json.decode(raw[name]) if name in raw else None
