"""POST /v1/responses: what `response_answers.py` makes, as a stream, whole, or begun in the background."""

from contextlib import aclosing

from apps.core.db import run_db
from apps.core.errors import Gone, NotFound, ServiceError
from apps.core.http import SSE_DONE, encode_json
from apps.inference.sampling import find_sampling
from apps.openai_api.background_responses import read_response
from apps.openai_api.background_runs import BackgroundRun
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.encoders.mcp_responses import make_encoder
from apps.openai_api.encoders.responses import encode_early_failure
from apps.openai_api.event_streams import follow, open_log
from apps.openai_api.response_answers import ResponseAnswer
from apps.openai_api.schemas.event_query import read_position
from apps.openai_api.schemas.responses import PreparedCall, parse_response


class ResponsesConsumer(GenerationConsumer):
    """A response that has ended, whole or cut, is kept before the client is told of its end."""

    _answer: ResponseAnswer | None = None

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        answer = self._answer = ResponseAnswer(parse_response(body, self.caller), self.caller)
        if answer.call.body.background:
            return await self._start_in_background(answer, await answer.prepare())
        if not answer.call.request.stream:
            return await self.send_json(await answer.answer())
        async with aclosing(answer.generate(await answer.prepare())) as events:
            await self.run_stream(self.write_events(events, SSE_DONE))

    def encode_failure(self, error: ServiceError) -> bytes:
        """A response that has begun ends with response.failed, a mere wait with an error."""
        encoder = self._answer.encoder if self._answer is not None else None
        if encoder is None:
            return encode_early_failure(error)
        return encoder.fail(error) + encoder.end() + SSE_DONE

    async def _start_in_background(self, answer: ResponseAnswer, prepared: PreparedCall) -> None:
        encoder = make_encoder(answer.call, await find_sampling(prepared.request))
        queued = encode_json(encoder.response)
        await answer.save(encoder)
        if not answer.call.request.stream:
            BackgroundRun(prepared, encoder)
            return await self.send_json(queued)
        log = await open_log(self.caller, answer.call.request.id)
        log.add(encoder.queue())
        BackgroundRun(prepared, encoder, log)
        await self.send_pieces(follow(self.caller, answer.call.request.id))


class ResponseEventsConsumer(GenerationConsumer):
    """GET /v1/responses/{id}?stream=true: the events of a background response once more, or from one on."""

    method = "GET"

    async def respond(self, body: bytes) -> None:
        """Raises NotFound, and Gone for a response whose events are not kept."""
        position = read_position(self.scope["query_string"])
        response_id = self.scope["path"].rstrip("/").rpartition("/")[2]
        await run_db(read_response, self.caller, response_id)
        try:
            await self.send_pieces(follow(self.caller, response_id, position))
        except NotFound:
            message = "Only the events of a response made with 'background' and 'stream' can be read again."
            raise Gone(f"{message} Those of '{response_id}' are not kept.", param="stream") from None

    def encode_failure(self, error: ServiceError) -> bytes:
        """As in the stream itself."""
        return encode_early_failure(error)
