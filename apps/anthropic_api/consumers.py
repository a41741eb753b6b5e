"""POST /v1/messages and /v1/messages/count_tokens: parse, generate, encode. One way for streams and whole answers."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from apps.anthropic_api.encoder import MessageEncoder
from apps.anthropic_api.errors import get_status, make_error
from apps.anthropic_api.schemas.body import MessagesCall, parse_count, parse_messages
from apps.core.errors import ServiceError
from apps.core.http import encode_json
from apps.core.middleware import Receive, Scope, Send, add_headers
from apps.inference.events import Waiting
from apps.inference.generate import generate
from apps.inference.tokens import tokenize
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.encoders.responses import encode_event
from gpu_worker.protocol import Delta, Finished, Started


class AnthropicConsumer(GenerationConsumer):
    """What the paths of this API have in common: the shape of errors, and the name of the header with the id."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._request_id: str = scope["request_id"]
        await super().__call__(scope, receive, add_headers(send, [(b"request-id", self._request_id.encode())]))

    def describe_error(self, error: ServiceError) -> tuple[int, bytes]:
        """Status and body of an answer that is an error."""
        return get_status(error), encode_json(make_error(error, self._request_id))

    def encode_failure(self, error: ServiceError) -> bytes:
        """The event that ends a stream in place of message_stop."""
        return encode_event(make_error(error, self._request_id))


class MessagesConsumer(AnthropicConsumer):
    """POST /v1/messages"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_messages(body, self.caller)
        encoder = MessageEncoder(call)
        with call.naming():
            async with aclosing(_generate(call, encoder)) as events:
                if call.request.stream:
                    return await self.run_stream(self.write_events(events, b""))
                async for _ in events:
                    pass
        await self.send_json(encode_json(encoder.message))


class CountTokensConsumer(AnthropicConsumer):
    """POST /v1/messages/count_tokens"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_count(body, self.caller)
        with call.naming():
            tokens = await tokenize(call.request, with_tokens=False)
        await self.send_json(encode_json({"input_tokens": tokens.num_tokens}))


async def _generate(call: MessagesCall, encoder: MessageEncoder) -> AsyncGenerator[bytes | Waiting, None]:
    """The events of the message, encoded. Afterwards the encoder has the whole message."""
    async with aclosing(generate(call.request)) as events:
        async for event in events:
            match event:
                case Delta():
                    yield encoder.add_delta(event)
                case Finished():
                    yield encoder.finish(event)
                case Started():
                    yield encoder.start(event)
                case Waiting():
                    yield event
