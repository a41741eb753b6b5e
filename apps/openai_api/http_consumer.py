"""The HTTP side of the generating endpoints: a request in, cancellation when the client leaves, one answer out.

Knows nothing of models. These consumers answer without Django's handler, which would hold a thread and a database
connection for as long as a stream is open.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing
from typing import Any, cast

from channels.consumer import AsyncConsumer
from django.conf import settings

from apps.core.errors import MethodNotAllowed, PayloadTooLarge, ServiceError, Unavailable, UnsupportedMediaType
from apps.core.http import (
    JSON_HEADER,
    SSE_HEADERS,
    encode_error,
    encode_sse_comment,
    encode_sse_error,
    get_error_headers,
    make_internal_error,
)
from apps.core.middleware import Message, Receive, Scope, Send, get_header

WATCH_AFTER_S = 0.05  # an answer that is complete by then needs no task that waits for the client to leave

logger = logging.getLogger(__name__)


class HttpConsumer(AsyncConsumer):
    """One request. Subclasses answer it in `respond`, with `send_json` or with the SSE methods.

    Channels' own dispatch is replaced: it reads the next message only after the last one is dealt with, so that it
    would see neither a disconnect during a generation nor a shutdown of the server.
    """

    method = "POST"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._send = send
        self._started = False
        self.extra_headers: list[tuple[bytes, bytes]] = []  # of the answer, whatever it is
        self._keepalive: asyncio.TimerHandle | None = None
        self._comments: set[asyncio.Task[None]] = set()
        try:
            if scope["method"] != self.method:
                raise MethodNotAllowed(f"Use {self.method}, not {scope['method']}.")
            await self.check_access()
            body = await self.read(receive)
            await self._respond_until_disconnect(receive, body)
        except ServiceError as error:
            await self._send_failure(error)
        except asyncio.CancelledError:
            # The server stops and has waited long enough: the client learns why its answer ends here.
            await self._send_failure(Unavailable("The server is stopping. Try again in a moment.", retry_after_s=2))
            raise
        except Exception:
            # The edge of the request: nothing above could answer the client.
            logger.exception("request %s failed", scope.get("request_id"))
            await self._send_failure(make_internal_error())
        finally:
            self._stop_keepalive()

    async def check_access(self) -> None:
        """Runs before the body is read: who is not let in cannot make the server read 32 MB."""

    async def read(self, receive: Receive) -> Any:
        """The body, in whatever form `respond` takes it. Raises ServiceError."""
        return await read_body(self.scope, receive)

    async def respond(self, body: Any) -> None:
        """Answer. Raises ServiceError: an HTTP status before the first byte, an error event after it."""
        raise NotImplementedError

    async def run_stream(self, stream: Coroutine[Any, Any, None]) -> None:
        """Run it in a task of its own: each chunk then wakes the stream alone, not the dozen callers around it too."""
        await asyncio.create_task(stream)

    async def send_json(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """The whole response."""
        await self.send_body(body, JSON_HEADER, status, headers)

    async def send_body(
        self, body: bytes, content_type: tuple[bytes, bytes], status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """The whole response, in another format than JSON."""
        pairs = [content_type, (b"content-length", b"%d" % len(body)), *self.extra_headers]
        pairs += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start_sse(self) -> None:
        """Send status and headers, and from now on a comment whenever nothing was written for a while."""
        if self._started:
            return
        self._started = True
        headers = [*SSE_HEADERS, *self.extra_headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._keepalive = self._loop.call_later(settings.SSE_KEEPALIVE_S, self._send_keepalive)

    def write_sse(self, events: bytes) -> Awaitable[None]:
        """Whole events; done when the connection has room again. To be awaited at once."""
        self._last_write = self._loop.time()
        return self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def finish_sse(self, events: bytes) -> None:
        """The last events of the stream."""
        self._stop_keepalive()
        await self._send({"type": "http.response.body", "body": events, "more_body": False})

    async def send_pieces(self, pieces: AsyncGenerator[bytes, None]) -> None:
        """A stream that somebody else writes. Headers go out with the first piece, even where that is empty."""
        async with aclosing(pieces):
            async for piece in pieces:
                await self.start_sse()
                if piece:
                    await self.write_sse(piece)
        await self.start_sse()
        await self.finish_sse(b"")

    def describe_error(self, error: ServiceError) -> tuple[int, bytes]:
        """Status and body of an answer that is an error."""
        return error.status, encode_error(error)

    def encode_failure(self, error: ServiceError) -> bytes:
        """The end of a stream that has begun and fails."""
        return encode_sse_error(error)

    async def _respond_until_disconnect(self, receive: Receive, body: bytes) -> None:
        task = cast(asyncio.Task[Any], asyncio.current_task())
        watchers: list[asyncio.Task[None]] = []

        def watch() -> None:
            watchers.append(asyncio.create_task(_cancel_on_disconnect(receive, task)))

        timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, watch)
        try:
            await self.respond(body)
        except asyncio.CancelledError:
            if not any(watcher.done() for watcher in watchers):
                raise  # the server is stopping
            task.uncancel()  # the client is gone: there is nobody to answer, and nothing went wrong
        finally:
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()

    async def _send_failure(self, error: ServiceError) -> None:
        if self._started:
            await self.finish_sse(self.encode_failure(error))
        else:
            headers = get_error_headers(error)
            if isinstance(error, MethodNotAllowed):
                headers["allow"] = self.method
            if isinstance(error, PayloadTooLarge):
                headers["connection"] = "close"  # the rest of the body stays unread
            status, body = self.describe_error(error)
            await self.send_json(body, status, headers)

    def _send_keepalive(self) -> None:
        idle_s = self._loop.time() - self._last_write
        if idle_s >= settings.SSE_KEEPALIVE_S:
            task = self._loop.create_task(self._write_comment("keep-alive"))
            self._comments.add(task)
            task.add_done_callback(self._comments.discard)
            idle_s = 0.0
        self._keepalive = self._loop.call_later(settings.SSE_KEEPALIVE_S - idle_s, self._send_keepalive)

    async def _write_comment(self, text: str) -> None:
        await self.write_sse(encode_sse_comment(text))

    def _stop_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        for task in self._comments:
            task.cancel()


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The request's JSON text. Raises UnsupportedMediaType, and PayloadTooLarge before it has read too much."""
    _check_content_type(get_header(scope, b"content-type"))
    limit = settings.MAX_BODY_BYTES
    declared = get_header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _make_too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()  # after a disconnect: nothing more, and nobody reads what is answered
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _make_too_large(limit)
        if not message.get("more_body"):
            return b"".join(parts)


async def _cancel_on_disconnect(receive: Receive, task: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


def _check_content_type(given: bytes | None) -> None:
    kind = (given or b"application/json").split(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json"):
        raise UnsupportedMediaType(f"Send the body as application/json, not {kind.decode('latin-1')}.")


def _make_too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.")
