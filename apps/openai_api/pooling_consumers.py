"""The endpoints that answer with vectors and scores: parse, compute, encode. Never streamed."""

import asyncio
from contextlib import aclosing

from apps.inference.generate import generate
from apps.inference.requests import PoolingRequest
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.encoders.pooling import EmbeddingFold, RerankFold, ResultFold, ScoreFold, iterate_rows
from apps.openai_api.schemas.embeddings import parse_embedding
from apps.openai_api.schemas.ranking import parse_rerank, parse_score
from gpu_worker.protocol import Finished, Usage, Vectors

_NUMBERS_AT_ONCE = 8192  # that are encoded before the event loop gets its turn


class PoolingConsumer(GenerationConsumer):
    """What they have in common."""

    async def answer(self, request: PoolingRequest, fold: ResultFold) -> None:
        """Gather everything, then send it. Raises ServiceError."""
        usage = Usage()
        async with aclosing(generate(request)) as events:
            async for event in events:
                match event:
                    case Vectors():
                        await _add_all(fold, event)
                    case Finished():
                        usage = event.usage
        await self.send_json(fold.encode(usage))


class EmbeddingsConsumer(PoolingConsumer):
    """POST /v1/embeddings"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_embedding(body, self.caller)
        await self.answer(call.request, EmbeddingFold(call))


class RerankConsumer(PoolingConsumer):
    """POST /v1/rerank"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_rerank(body, self.caller)
        await self.answer(call.request, RerankFold(call))


class ScoreConsumer(PoolingConsumer):
    """POST /v1/score"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_score(body, self.caller)
        await self.answer(call.request, ScoreFold(call))


async def _add_all(fold: ResultFold, vectors: Vectors) -> None:
    num_rows = max(1, _NUMBERS_AT_ONCE // vectors.width)
    for position, (index, row) in enumerate(iterate_rows(vectors), start=1):
        fold.add(index, row)
        if position % num_rows == 0:
            await asyncio.sleep(0)
