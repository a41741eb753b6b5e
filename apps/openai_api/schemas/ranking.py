"""The bodies of POST /v1/rerank and POST /v1/score: decoded, checked, and turned into a PoolingRequest.

Rerank: https://docs.cohere.com/reference/rerank and https://jina.ai/reranker. Score: vLLM's.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest
from apps.core.ids import new_rerank_id, new_score_id
from apps.inference.requests import PoolingRequest
from apps.openai_api.parameters import RANKING_NEUTRAL, check_fields
from apps.openai_api.schemas.chat import read_model
from apps.openai_api.schemas.embeddings import Truncation, check_inputs
from apps.openai_api.schemas.fields import Count, decode_body
from gpu_worker.protocol import Score


class Document(Struct, frozen=True):
    """A document as an object. Only its text is ranked."""

    text: str


class RerankBody(Struct, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    truncate_prompt_tokens: Truncation | None = None


class ScoreBody(Struct, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None
    truncate_prompt_tokens: Truncation | None = None


RERANK_HONOURED = frozenset(RerankBody.__struct_fields__)
SCORE_HONOURED = frozenset(ScoreBody.__struct_fields__)
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_rerank_decoder = msgspec.json.Decoder(RerankBody)
_score_decoder = msgspec.json.Decoder(ScoreBody)


class RerankCall(NamedTuple):
    """A valid request and how its answer is to be written."""

    request: PoolingRequest
    documents: list[str]
    top_n: int
    return_documents: bool


class ScoreCall(NamedTuple):
    """A valid request."""

    request: PoolingRequest
    num_pairs: int


def parse_rerank(body: bytes, caller: Caller) -> RerankCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`. Pure: which models exist is asked later."""
    raw = decode_body(_raw_decoder, body)
    rerank = decode_body(_rerank_decoder, body)
    check_fields(raw, RERANK_HONOURED, RANKING_NEUTRAL)
    documents = [item if isinstance(item, str) else item.text for item in rerank.documents]
    check_inputs([rerank.query], "query")
    check_inputs(documents, "documents")
    message = Score(id="", queries=[rerank.query], documents=documents, max_tokens=rerank.truncate_prompt_tokens)
    request = PoolingRequest(
        id=new_rerank_id(), caller=caller, model=read_model(rerank.model), endpoint="rerank", message=message
    )
    top_n = min(rerank.top_n or len(documents), len(documents))
    return RerankCall(request, documents, top_n, bool(rerank.return_documents))


def parse_score(body: bytes, caller: Caller) -> ScoreCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`. Pure: which models exist is asked later."""
    raw = decode_body(_raw_decoder, body)
    score = decode_body(_score_decoder, body)
    check_fields(raw, SCORE_HONOURED, RANKING_NEUTRAL)
    firsts, seconds = _read_list(score.text_1, "text_1"), _read_list(score.text_2, "text_2")
    if len(firsts) not in (1, len(seconds)):
        raise InvalidRequest("'text_1' must be one text, or as many as 'text_2' has.", param="text_1")
    message = Score(
        id="",
        queries=firsts,
        documents=seconds,
        max_tokens=score.truncate_prompt_tokens,
        query_param="text_1",
        document_param="text_2",
    )
    request = PoolingRequest(
        id=new_score_id(), caller=caller, model=read_model(score.model), endpoint="score", message=message
    )
    return ScoreCall(request, len(seconds))


def _read_list(given: Any, param: str) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    check_inputs(texts, param)
    return list(texts)
