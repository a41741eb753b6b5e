"""The body of POST /v1/embeddings: decoded, checked, and turned into a PoolingRequest.

https://platform.openai.com/docs/api-reference/embeddings/create, with the extensions of vLLM and sentence-transformers.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest
from apps.core.ids import new_embedding_id
from apps.inference.requests import PoolingRequest
from apps.openai_api.parameters import EMBEDDING_NEUTRAL, check_fields
from apps.openai_api.schemas.chat import read_model
from apps.openai_api.schemas.fields import MAX_COUNT, Count, TextsOrTokens, decode_body, read_texts
from gpu_worker.protocol import Embed, InputKind

MAX_INPUTS = 2048  # OpenAI's

Truncation = Annotated[int, Meta(ge=-1, le=MAX_COUNT)]
_INPUT_KINDS: dict[str, InputKind] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}


class EmbeddingBody(Struct, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    input: TextsOrTokens
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    normalize: bool | None = None
    prompt_name: str | None = None
    input_type: Literal["query", "search_query", "document", "passage", "search_document"] | None = None
    truncate_prompt_tokens: Truncation | None = None


HONOURED = frozenset(EmbeddingBody.__struct_fields__)
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(EmbeddingBody)


class EmbeddingCall(NamedTuple):
    """A valid request and how its answer is to be written."""

    request: PoolingRequest
    num_inputs: int
    as_base64: bool


def parse_embedding(body: bytes, caller: Caller) -> EmbeddingCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`. Pure: which models exist is asked later."""
    raw = decode_body(_raw_decoder, body)
    embedding = decode_body(_decoder, body)
    check_fields(raw, HONOURED, EMBEDDING_NEUTRAL)
    inputs = read_texts(embedding.input, "input")
    check_inputs(inputs, "input")
    if embedding.prompt_name is not None and embedding.input_type is not None:
        raise InvalidRequest("Send either 'prompt_name' or 'input_type'.", param="input_type")
    message = Embed(
        id="",
        inputs=inputs,
        dimensions=embedding.dimensions,
        normalize=embedding.normalize,
        prompt_name=embedding.prompt_name,
        input_kind=_INPUT_KINDS[embedding.input_type] if embedding.input_type else None,
        max_tokens=embedding.truncate_prompt_tokens,
    )
    request = PoolingRequest(
        id=new_embedding_id(),
        caller=caller,
        model=read_model(embedding.model),
        endpoint="embeddings",
        message=message,
    )
    return EmbeddingCall(request, len(inputs), embedding.encoding_format == "base64")


def check_inputs(inputs: list[str | list[int]] | list[str], param: str) -> None:
    """Raises InvalidRequest for too many inputs, and for an empty one."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidRequest(f"'{param}' may hold 1 to {MAX_INPUTS} items.", param=param)
    for index, item in enumerate(inputs):
        if not item:
            path = param if len(inputs) == 1 else f"{param}[{index}]"
            raise InvalidRequest(f"'{path}' must not be empty.", param=path)
