"""POST /v1/responses: load what was said before, generate, keep, answer. One way for streams and for whole answers."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from apps.core.db import run_db
from apps.core.errors import ServiceError
from apps.core.http import SSE_DONE, encode_json
from apps.inference.events import Waiting
from apps.inference.generate import generate
from apps.inference.sampling import find_sampling
from apps.openai_api import background_runs
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.encoders.responses import ResponseEncoder, encode_early_failure
from apps.openai_api.schemas.responses import PreparedCall, ResponsesCall, parse_response, prepare
from apps.openai_api.schemas.responses_shape import InputItem
from apps.openai_api.stored_responses import Context, load_context, save_response
from gpu_worker.protocol import Delta, Finished, Started


class ResponsesConsumer(GenerationConsumer):
    """A response that has ended, whole or cut, is kept before the client is told of its end."""

    _encoder: ResponseEncoder | None = None

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_response(body, self.caller)
        context = await self._load_context(call)
        referenced = msgspec.convert(context.referenced, dict[str, InputItem])
        prepared = prepare(call, msgspec.convert(context.history, list[InputItem]), referenced)
        if call.body.background:
            return await self._start_in_background(call, prepared, context)
        try:
            async with aclosing(self._generate(call, prepared, context)) as events:
                await (self._stream(events) if call.request.stream else self._answer(events))
        except ServiceError as error:
            prepared.rename(error)
            raise

    def encode_failure(self, error: ServiceError) -> bytes:
        """A response that has begun ends with response.failed, a mere wait with an error."""
        if self._encoder is None:
            return encode_early_failure(error)
        return self._encoder.fail(error) + self._encoder.end() + SSE_DONE

    async def _start_in_background(self, call: ResponsesCall, prepared: PreparedCall, context: Context) -> None:
        encoder = ResponseEncoder(call, await find_sampling(prepared.request))
        queued = encode_json(encoder.response)
        await run_db(save_response, self.caller, encoder.response, call.raw_input, context.referenced)
        background_runs.start(prepared, encoder)
        await self.send_json(queued)

    async def _load_context(self, call: ResponsesCall) -> Context:
        previous_id = call.body.previous_response_id
        if not previous_id and not call.references:
            return Context([], {})
        return await run_db(load_context, self.caller, previous_id, call.references)

    async def _generate(
        self, call: ResponsesCall, prepared: PreparedCall, context: Context
    ) -> AsyncGenerator[bytes | Waiting, None]:
        """The events of the response, encoded. Afterwards the encoder has the whole response."""
        async with aclosing(generate(prepared.request)) as events:
            async for event in events:
                match event:
                    case Started():
                        encoder = ResponseEncoder(call, await find_sampling(prepared.request))
                        self._encoder = encoder
                        yield encoder.start()
                    case Delta():
                        yield encoder.add_delta(event)
                    case Finished():
                        yield encoder.finish(event)
                    case Waiting():
                        yield event
        if call.is_stored:
            await run_db(save_response, self.caller, encoder.response, call.raw_input, context.referenced)
        yield encoder.end()

    async def _answer(self, events: AsyncGenerator[bytes | Waiting, None]) -> None:
        async for _ in events:
            pass
        if self._encoder is not None:
            await self.send_json(encode_json(self._encoder.response))

    async def _stream(self, events: AsyncGenerator[bytes | Waiting, None]) -> None:
        async for event in events:
            if isinstance(event, Waiting):
                await self.write_waiting(event)
            elif event:
                await self.start_sse()
                await self.write_sse(event)
        await self.finish_sse(SSE_DONE)
