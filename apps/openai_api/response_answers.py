"""One response being made: what was said before is read, events become the response, and it is kept at its end.

Behind HTTP, streamed or not, and behind a line of a batch. Knows neither.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import ServiceError
from apps.core.http import encode_json
from apps.inference.events import Waiting
from apps.inference.generate import generate
from apps.inference.sampling import find_sampling
from apps.mcp.loop import run_loop
from apps.openai_api.encoders.mcp_responses import McpResponseEncoder, make_encoder
from apps.openai_api.encoders.responses import ResponseEncoder
from apps.openai_api.mcp_plans import plan_response
from apps.openai_api.response_items import Item, read_items
from apps.openai_api.schemas.responses import PreparedCall, ResponsesCall, prepare
from apps.openai_api.schemas.responses_shape import InputItem
from apps.openai_api.stored_responses import Context, load_context, save_response
from gpu_worker.protocol import Delta, Finished, Started


def generate_response(prepared: PreparedCall) -> AsyncGenerator[Any, None]:
    """The events of one `generate()`, or of as many as its tools make necessary."""
    if prepared.plan is not None:
        return run_loop(prepared.request, prepared.plan)
    return generate(prepared.request)


class Memory(NamedTuple):
    """A response that is not stored, for whoever goes on from it at once."""

    response_id: str
    items: list[Item]  # of the conversation before it, of its input, and its own


class ResponseAnswer:
    """A response that has ended, whole or cut, is kept before anybody is told of its end."""

    def __init__(self, call: ResponsesCall, caller: Caller, memory: Memory | None = None) -> None:
        self.call = call
        self._memory = memory
        self.encoder: ResponseEncoder | None = None  # from the first event on
        self._caller = caller
        self._context = Context([], {})

    async def prepare(self) -> PreparedCall:
        """The whole request, with what was said before. Raises InvalidRequest."""
        self._context = await self._load_context()
        referenced = msgspec.convert(self._context.referenced, dict[str, InputItem])
        history = msgspec.convert(self._context.history, list[InputItem])
        prepared = prepare(self.call, history, referenced)
        return prepared._replace(plan=await plan_response(self.call, history, self._caller))

    async def _load_context(self) -> Context:
        previous_id, conversation_id = self.call.body.previous_response_id, self.call.conversation_id
        memory, references = self._memory, self.call.references
        if memory is not None and memory.response_id == previous_id:
            known = {item["id"]: item for item in memory.items}
            unknown = [name for name in references if name not in known]
            more = await run_db(load_context, self._caller, None, unknown) if unknown else Context([], {})
            return Context(memory.items, known | more.referenced)
        if previous_id or references or conversation_id is not None:
            return await run_db(load_context, self._caller, previous_id, references, conversation_id)
        return Context([], {})

    async def generate(self, prepared: PreparedCall) -> AsyncGenerator[bytes | Waiting, None]:
        """The events of the response, encoded; afterwards the encoder has all of it. Raises ServiceError."""
        try:
            async with aclosing(self._generate(prepared)) as events:
                async for event in events:
                    yield event
        except ServiceError as error:
            prepared.rename(error)
            raise

    async def skip(self, prepared: PreparedCall) -> AsyncGenerator[bytes | Waiting, None]:
        """The events of a response that says nothing: its input is kept to be gone on from."""
        encoder = self.encoder = ResponseEncoder(self.call, await find_sampling(prepared.request))
        yield encoder.start()
        encoder.skip()
        if self._is_kept:
            await self.save(encoder)
        yield encoder.end()

    def remember(self) -> Memory | None:
        """The response that has ended, where nobody else keeps it."""
        if self.call.is_stored or self.encoder is None:
            return None
        response_id = self.call.request.id
        given = read_items(msgspec.json.decode(self.call.raw_input), response_id, self._context.referenced)
        return Memory(response_id, [*self._context.history, *given, *self.encoder.response["output"]])

    async def answer(self) -> bytes:
        """The whole response. Raises ServiceError."""
        async with aclosing(self.generate(await self.prepare())) as events:
            async for _ in events:
                pass
        return b"" if self.encoder is None else encode_json(self.encoder.response)

    async def save(self, encoder: ResponseEncoder) -> None:
        """Keep the response as it stands."""
        await run_db(save_response, self._caller, encoder.response, self.call.raw_input, self._context.referenced)

    @property
    def _is_kept(self) -> bool:
        return self.call.is_stored or self.call.conversation_id is not None

    async def _generate(self, prepared: PreparedCall) -> AsyncGenerator[bytes | Waiting, None]:
        async with aclosing(generate_response(prepared)) as events:
            async for event in events:
                match event:
                    case Started():
                        encoder = make_encoder(self.call, await find_sampling(prepared.request))
                        self.encoder = encoder
                        yield encoder.start()
                    case Delta():
                        yield encoder.add_delta(event)
                    case Finished():
                        yield encoder.finish(event)
                    case Waiting():
                        yield event
                    case _ if isinstance(encoder, McpResponseEncoder):
                        yield encoder.add_tool_event(event)
        if self._is_kept:
            await self.save(encoder)
        yield encoder.end()
