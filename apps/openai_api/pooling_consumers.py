"""The endpoints that answer with vectors and scores: parse, compute, encode. Never streamed."""

from apps.openai_api.answers import answer_pooling
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.encoders.pooling import EmbeddingFold, RerankFold, ScoreFold
from apps.openai_api.schemas.embeddings import parse_embedding
from apps.openai_api.schemas.ranking import parse_rerank, parse_score


class EmbeddingsConsumer(GenerationConsumer):
    """POST /v1/embeddings"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_embedding(body, self.caller)
        await self.send_json(await answer_pooling(call.request, EmbeddingFold(call)))


class RerankConsumer(GenerationConsumer):
    """POST /v1/rerank"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_rerank(body, self.caller)
        await self.send_json(await answer_pooling(call.request, RerankFold(call)))


class ScoreConsumer(GenerationConsumer):
    """POST /v1/score"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_score(body, self.caller)
        await self.send_json(await answer_pooling(call.request, ScoreFold(call)))
