"""The body of POST /v1/batches. https://platform.openai.com/docs/api-reference/batch/create"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from apps.batches.calls import ENDPOINTS
from apps.core.errors import InvalidRequest
from apps.files.services import MAX_EXPIRY_S, MIN_EXPIRY_S
from apps.openai_api.schemas.fields import decode_body
from apps.openai_api.schemas.responses import Metadata


class ExpiresAfter(Struct, frozen=True, forbid_unknown_fields=True):
    """How long the files of the answers are kept, from when they are made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class BatchBody(Struct, frozen=True, kw_only=True):
    """All fields."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


HONOURED = frozenset(BatchBody.__struct_fields__)
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(BatchBody)


def parse_batch(body: bytes) -> BatchBody:
    """Raises InvalidRequest with `param`."""
    for name in decode_body(_raw_decoder, body):
        if name not in HONOURED:
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    batch = decode_body(_decoder, body)
    if batch.endpoint not in ENDPOINTS:
        raise InvalidRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}.", param="endpoint")
    return batch
