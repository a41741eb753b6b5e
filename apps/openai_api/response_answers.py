"""One response being made: what was said before is read, events become the response, and it is kept at its end.

Behind HTTP, streamed or not, and behind a line of a batch. Knows neither.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import ServiceError
from apps.core.http import encode_json
from apps.inference.events import Waiting
from apps.inference.generate import generate
from apps.inference.sampling import find_sampling
from apps.openai_api.encoders.responses import ResponseEncoder
from apps.openai_api.schemas.responses import PreparedCall, ResponsesCall, prepare
from apps.openai_api.schemas.responses_shape import InputItem
from apps.openai_api.stored_responses import Context, load_context, save_response
from gpu_worker.protocol import Delta, Finished, Started


class ResponseAnswer:
    """A response that has ended, whole or cut, is kept before anybody is told of its end."""

    def __init__(self, call: ResponsesCall, caller: Caller) -> None:
        self.call = call
        self.encoder: ResponseEncoder | None = None  # from the first event on
        self._caller = caller
        self._context = Context([], {})

    async def prepare(self) -> PreparedCall:
        """The whole request, with what was said before. Raises InvalidRequest."""
        previous_id, conversation_id = self.call.body.previous_response_id, self.call.conversation_id
        if previous_id or self.call.references or conversation_id is not None:
            self._context = await run_db(load_context, self._caller, previous_id, self.call.references, conversation_id)
        referenced = msgspec.convert(self._context.referenced, dict[str, InputItem])
        return prepare(self.call, msgspec.convert(self._context.history, list[InputItem]), referenced)

    async def generate(self, prepared: PreparedCall) -> AsyncGenerator[bytes | Waiting, None]:
        """The events of the response, encoded; afterwards the encoder has all of it. Raises ServiceError."""
        try:
            async with aclosing(self._generate(prepared)) as events:
                async for event in events:
                    yield event
        except ServiceError as error:
            prepared.rename(error)
            raise

    async def answer(self) -> bytes:
        """The whole response. Raises ServiceError."""
        async with aclosing(self.generate(await self.prepare())) as events:
            async for _ in events:
                pass
        return b"" if self.encoder is None else encode_json(self.encoder.response)

    async def save(self, encoder: ResponseEncoder) -> None:
        """Keep the response as it stands."""
        await run_db(save_response, self._caller, encoder.response, self.call.raw_input, self._context.referenced)

    async def _generate(self, prepared: PreparedCall) -> AsyncGenerator[bytes | Waiting, None]:
        async with aclosing(generate(prepared.request)) as events:
            async for event in events:
                match event:
                    case Started():
                        encoder = ResponseEncoder(self.call, await find_sampling(prepared.request))
                        self.encoder = encoder
                        yield encoder.start()
                    case Delta():
                        yield encoder.add_delta(event)
                    case Finished():
                        yield encoder.finish(event)
                    case Waiting():
                        yield event
        if self.call.is_stored or self.call.conversation_id is not None:
            await self.save(encoder)
        yield encoder.end()
