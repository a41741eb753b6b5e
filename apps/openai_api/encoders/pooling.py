"""Vectors and scores to the wire formats of embeddings, rerank and score. Knows nothing of HTTP.

Each fold takes one result at a time, in any order, and once more where a request was sent again.
"""

import struct
import sys
import time
from array import array
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Protocol

from apps.core.http import encode_json
from apps.openai_api.schemas.embeddings import EmbeddingCall
from apps.openai_api.schemas.ranking import RerankCall, ScoreCall
from gpu_worker.protocol import Usage, Vectors

_FLOAT = struct.Struct("<f")


class ResultFold(Protocol):
    """Gathers the results of one request into its answer."""

    def add(self, index: int, row: bytes) -> None:
        """The result of one input: little-endian float32."""

    def encode(self, usage: Usage) -> bytes:
        """The whole answer as JSON. To be called after the last result."""


class EmbeddingFold:
    """https://platform.openai.com/docs/api-reference/embeddings/object. Each vector is encoded as it comes."""

    def __init__(self, call: EmbeddingCall) -> None:
        self._call = call
        self._rows = [b""] * call.num_inputs

    def add(self, index: int, row: bytes) -> None:
        """The result of one input."""
        vector: Any = b64encode(row).decode() if self._call.as_base64 else _read_floats(row)
        self._rows[index] = encode_json({"object": "embedding", "index": index, "embedding": vector})

    def encode(self, usage: Usage) -> bytes:
        """The whole answer as JSON."""
        rest = encode_json({"model": self._call.request.model, "usage": _encode_usage(usage)})
        return b'{"object":"list","data":[' + b",".join(self._rows) + b"]," + rest[1:]


class RerankFold:
    """The best documents first; equal ones in the client's own order."""

    def __init__(self, call: RerankCall) -> None:
        self._call = call
        self._scores = [0.0] * len(call.documents)

    def add(self, index: int, row: bytes) -> None:
        """The score of one document."""
        self._scores[index] = _FLOAT.unpack(row)[0]

    def encode(self, usage: Usage) -> bytes:
        """The whole answer as JSON."""
        request = self._call.request
        order = sorted(range(len(self._scores)), key=lambda index: -self._scores[index])[: self._call.top_n]
        results = [self._make_result(index) for index in order]
        return encode_json(
            {"id": request.id, "model": request.model, "results": results, "usage": _encode_usage(usage)}
        )

    def _make_result(self, index: int) -> dict[str, Any]:
        result: dict[str, Any] = {"index": index, "relevance_score": self._scores[index]}
        if self._call.return_documents:
            result["document"] = {"text": self._call.documents[index]}
        return result


class ScoreFold:
    """vLLM's shape: a list in the order of the pairs."""

    def __init__(self, call: ScoreCall) -> None:
        self._call = call
        self._created = int(time.time())
        self._scores = [0.0] * call.num_pairs

    def add(self, index: int, row: bytes) -> None:
        """The score of one pair."""
        self._scores[index] = _FLOAT.unpack(row)[0]

    def encode(self, usage: Usage) -> bytes:
        """The whole answer as JSON."""
        return encode_json(
            {
                "id": self._call.request.id,
                "object": "list",
                "created": self._created,
                "model": self._call.request.model,
                "data": [
                    {"index": index, "object": "score", "score": score} for index, score in enumerate(self._scores)
                ],
                "usage": _encode_usage(usage),
            }
        )


def iterate_rows(vectors: Vectors) -> Iterator[tuple[int, bytes]]:
    """Which input, and its result."""
    num_bytes = vectors.width * _FLOAT.size
    for position, index in enumerate(vectors.indices):
        yield index, vectors.data[position * num_bytes : (position + 1) * num_bytes]


def _read_floats(row: bytes) -> list[float]:
    floats = array("f", row)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()


def _encode_usage(usage: Usage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
