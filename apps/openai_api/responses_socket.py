"""WebSocket mode of /v1/responses: one connection, response after response, each told in the events of the stream.

https://platform.openai.com/docs/guides/websocket-mode. A response that is not stored can be gone on from by the next
one on the same connection. After an hour a connection says so and ends, behind the response that runs. Knows no engine
and no table.
"""

import asyncio
import logging
from contextlib import aclosing, suppress

from django.conf import settings

from apps.accounts.auth import authenticate
from apps.core.errors import (
    AuthenticationFailed,
    InvalidRequest,
    PayloadTooLarge,
    RateLimited,
    ServiceError,
)
from apps.core.http import encode_error, encode_json, make_internal_error
from apps.core.middleware import Receive, Scope, Send
from apps.openai_api.response_answers import Memory, ResponseAnswer
from apps.openai_api.schemas.response_messages import parse_message

MAX_WAITING = 8  # messages that a client may send ahead of the response that runs

logger = logging.getLogger(__name__)


async def serve_responses(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application of one connection."""
    await receive()  # websocket.connect
    try:
        await authenticate(scope["headers"])
    except ServiceError as error:
        return await _refuse(error, scope, send)
    await send({"type": "websocket.accept"})
    await _Connection(scope, send).run(receive)


class _Connection:
    """Reads while it answers: who hangs up in the middle of a response is noticed."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._messages: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._memory: Memory | None = None  # the last response, where it is not stored
        self._began_s = asyncio.get_running_loop().time()

    async def run(self, receive: Receive) -> None:
        answering = asyncio.create_task(self._answer_all())
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                await self._take(message.get("bytes") or (message.get("text") or "").encode())
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _take(self, message: bytes) -> None:
        try:
            if len(message) > settings.MAX_BODY_BYTES:
                raise PayloadTooLarge(f"The message is larger than {settings.MAX_BODY_BYTES} bytes.")
            self._messages.put_nowait(message)
        except asyncio.QueueFull:
            await self._tell_error(RateLimited(f"{MAX_WAITING} messages wait already: read their responses first."))
        except PayloadTooLarge as error:
            await self._tell_error(error)

    async def _answer_all(self) -> None:
        with suppress(OSError):  # the connection broke while something was said
            while (message := await self._wait()) is not None:
                try:
                    await self._answer(message)
                except ServiceError as error:
                    await self._tell_error(error)
                    if isinstance(error, AuthenticationFailed):
                        return await self._send({"type": "websocket.close", "code": 1008})
                except OSError:
                    return
                except Exception:
                    logger.exception("a response on a socket failed")
                    await self._tell_error(make_internal_error())
            limit = f"{settings.RESPONSES_SOCKET_S / 60:g} minutes"
            reason = f"Responses websocket connection limit reached ({limit}). Open a new connection to continue."
            await self._tell_error(InvalidRequest(reason, code="websocket_connection_limit_reached"))
            await self._send({"type": "websocket.close", "code": 1000})

    async def _wait(self) -> bytes | None:
        """The next message; None when the connection has lasted as long as it may."""
        left_s = self._began_s + settings.RESPONSES_SOCKET_S - asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._messages.get(), left_s) if left_s > 0 else None
        return None

    async def _answer(self, message: bytes) -> None:
        caller = await authenticate(self._scope["headers"])  # as it is now: keys are revoked, people leave
        memory, self._memory = self._memory, None  # what fails is not gone on from
        call, generates = parse_message(message, caller)
        answer = ResponseAnswer(call, caller, memory)
        prepared = await answer.prepare()
        try:
            events = answer.generate(prepared) if generates else answer.skip(prepared)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, bytes):
                        await self._tell(event)
        except ServiceError as error:
            if answer.encoder is None:
                raise
            return await self._tell(answer.encoder.fail(error) + answer.encoder.end())
        self._memory = answer.remember()

    async def _tell(self, events: bytes) -> None:
        """Server-sent events as messages: the data of each."""
        for event in events.split(b"\n\n")[:-1]:
            await self._send({"type": "websocket.send", "text": event.partition(b"\ndata: ")[2].decode()})

    async def _tell_error(self, error: ServiceError) -> None:
        told = {"type": "error", "status": error.status, **error.as_dict()}
        await self._send({"type": "websocket.send", "text": encode_json(told).decode()})


async def _refuse(error: ServiceError, scope: Scope, send: Send) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 4401})
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": encode_error(error)})
