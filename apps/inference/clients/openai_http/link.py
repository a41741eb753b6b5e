"""The link to a server of OpenAI's HTTP API: one request of ours is one request there, streamed. Knows no routing.

A server that is a replica of ours may be lost and come back: its requests are tried elsewhere as long as nothing of the
answer has come. Later they cannot be: another server does not know the tokens that were sent. An upstream that fails
is told to the client at once.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import msgspec
from django.conf import settings
from yarl import URL

from apps.core.errors import ServiceError
from apps.core.fetch import FetchError, FetchRules, check_host, find_refusal, make_connector
from apps.core.http import encode_json
from apps.inference.clients.base import LinkLost, OnAborted, RequestStream, SlowConsumer, StreamEvent
from apps.inference.clients.openai_http import errors
from apps.inference.clients.openai_http.bodies import Body, make_body
from apps.inference.clients.openai_http.dialects import DIALECTS
from apps.inference.clients.openai_http.events import AnswerReader, ErrorEvent
from apps.inference.clients.openai_http.sse import EventTooLarge, SSELines
from apps.inference.clients.openai_http.vectors import read_vectors
from gpu_worker.protocol import Embed, Generate, ModelInfo, Started, Submission

CONNECT_TIMEOUT_S = 10.0
READ_REST_S = 1.0
UNUSED_AFTER_S = 300.0
REST_S = 1.0  # a replica that refused a connection gets nothing for so long
MAX_ERROR_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 256 * 1024 * 1024  # of an answer that is not streamed
_SLOW_BYTES = 256 * 1024  # to encode or decode so much takes milliseconds: more is done in a thread
# What its server says of a model is not asked for: requests are checked there.
_INFO = ModelInfo(architecture="", engine="http", dtype="", device="", max_model_len=0, vocab_size=0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A server, and the model there."""

    base_url: str  # up to and with /v1
    secret: str = field(repr=False)
    model: str
    dialect: str
    is_upstream: bool  # not a replica of ours: its address is checked


class HttpLink:
    """Used on one event loop only. Connections are kept and shared by requests; each request has a task."""

    def __init__(self, *, replica_id: str, target: HttpTarget, on_change: Callable[[], None]) -> None:
        self.replica_id = replica_id
        self.target = target
        self.ended = False
        self.is_ready = True  # as the registry sees it
        self.progress: float | None = None
        self._on_change = on_change
        self._dialect = DIALECTS[target.dialect]
        self._down_until_s = 0.0
        self._tasks: dict[RequestStream, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()  # answered; they read what is left of their connections
        self._closing: asyncio.Task[None] | None = None
        self._used_at_s = time.monotonic()
        self._rules = FetchRules(
            max_bytes=MAX_ANSWER_BYTES, timeout_s=0, private_hosts=frozenset(settings.UPSTREAM_PRIVATE_HOSTS)
        )
        connector = make_connector(self._rules, limit=0) if target.is_upstream else aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=settings.UPSTREAM_TIMEOUT_S
            ),
            headers={"Authorization": f"Bearer {target.secret}"} if target.secret else {},
            trust_env=False,
        )

    @property
    def is_unused(self) -> bool:
        """Nobody has asked for long: its model may be gone. Another link is made when it is wanted again."""
        return not self._tasks and time.monotonic() - self._used_at_s > UNUSED_AFTER_S

    @property
    def info(self) -> ModelInfo | None:
        """None while a replica is not ready, or has just refused a connection."""
        return _INFO if self.is_ready and not self.ended and time.monotonic() >= self._down_until_s else None

    @property
    def load(self) -> int:
        """Requests of this process."""
        return len(self._tasks)

    @property
    def attempt(self) -> tuple[str, int]:
        """A server is the same however often it is connected to."""
        return self.replica_id, 0

    def submit(self, message: Submission) -> RequestStream:
        """Ask it, in a task. Everything that goes wrong comes through the stream."""
        stream = RequestStream(message.id)
        if self.info is None:
            stream.fail(LinkLost())
            return stream
        if isinstance(message, Generate) and message.resume:
            stream.fail(errors.make_broken())
            return stream
        self._used_at_s = time.monotonic()
        task = asyncio.create_task(self._run(stream, message))
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._tasks.pop(stream, None))
        return stream

    def abort(self, stream: RequestStream, on_aborted: OnAborted) -> None:
        """Close its connection, which ends it there. Known are the counts that came so far, where any did."""
        if (task := self._tasks.pop(stream, None)) is not None:
            task.cancel()
        on_aborted(stream.usage)

    def hang_up(self) -> None:
        """Take nothing more. What runs goes on to its end: who has begun cannot go elsewhere."""
        self.ended = True
        self._closing = asyncio.create_task(self._close_when_done())

    async def close(self) -> None:
        """End every request, and wait until it is done. Idempotent."""
        self.ended = True
        for stream in list(self._tasks):
            stream.fail(LinkLost())
        tasks = {*self._tasks.values(), *self._ending}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._session.close()

    async def _close_when_done(self) -> None:
        if tasks := {*self._tasks.values(), *self._ending}:
            await asyncio.wait(tasks)
        await self._session.close()

    # --- one request ---

    async def _run(self, stream: RequestStream, message: Submission) -> None:
        reader = AnswerReader(message.id, message.n if isinstance(message, Generate) else 1)
        try:
            body = await self._prepare(message)
            async with await self._post(body) as response:
                if isinstance(message, Embed):
                    await self._read_vectors(stream, message, response)
                else:
                    await self._read_stream(stream, reader, response)
                await self._read_rest(stream, response)
        except ServiceError as error:
            stream.fail(error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            stream.fail(self._explain(error, has_output=reader.has_output))
        except Exception:
            # The end of a task: whoever reads the stream must learn of it.
            logger.exception("the answer of %s cannot be read", self.target.base_url)
            stream.fail(errors.make_broken())

    async def _prepare(self, message: Submission) -> Body:
        size = sum(map(len, ((isinstance(message, Generate) and message.media) or {}).values()))
        make = partial(
            make_body, message, model=self.target.model, dialect=self._dialect, base_url=self.target.base_url
        )
        return await asyncio.to_thread(make) if size > _SLOW_BYTES else make()

    async def _post(self, body: Body) -> aiohttp.ClientResponse:
        url = URL(f"{self.target.base_url}/{body.path}", encoded=True)
        if self.target.is_upstream:
            try:
                check_host(url, self._rules)
            except FetchError as error:
                raise self._refuse_address(error) from error
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        payload = encode_json(body.fields)
        try:
            return await self._send(url, payload, headers)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # A kept connection that the server has just closed: it has not seen the request.
            return await self._send(url, payload, headers)

    async def _send(self, url: URL, payload: bytes, headers: dict[str, str]) -> aiohttp.ClientResponse:
        response = await self._session.post(url, data=payload, headers=headers, allow_redirects=False)
        if response.status == 200:
            return response
        async with response:
            text = await response.content.read(MAX_ERROR_BYTES)
        logger.warning("%s answered with status %d", self.target.base_url, response.status)
        raise errors.read_error(response.status, text, response.headers.get("Retry-After"))

    async def _read_stream(self, stream: RequestStream, reader: AnswerReader, response: aiohttp.ClientResponse) -> None:
        """Raises ServiceError, or what the connection fails with, unless every choice has ended."""
        _push(stream, Started(stream.id, 0))
        lines = SSELines()
        try:
            async for piece in response.content.iter_any():
                for data in lines.feed(piece):
                    if data == b"[DONE]":
                        break
                    self._pass_on(stream, reader, data)
                else:
                    continue
                break
        except (aiohttp.ClientError, OSError):
            if not reader.is_whole:  # only its end is missing
                raise
        except (msgspec.MsgspecError, EventTooLarge, ValueError) as error:
            logger.warning("%s: what it streams is not understood: %s", self.target.base_url, error)
            raise errors.make_broken() from error
        if not reader.is_whole:
            raise aiohttp.ClientPayloadError("the stream ended before the answer")
        finished = reader.finish()
        stream.usage = finished.usage
        _push(stream, finished)

    async def _read_rest(self, stream: RequestStream, response: aiohttp.ClientResponse) -> None:
        """Behind the answer: a connection that is read to its end can be used again. No abort reaches this."""
        task = self._tasks.pop(stream, None)
        if task is None or response.content.at_eof():
            return
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(READ_REST_S):
                await response.content.readany()

    def _pass_on(self, stream: RequestStream, reader: AnswerReader, data: bytes) -> None:
        try:
            events = reader.read(data)
        except ErrorEvent:
            logger.warning("%s: it failed in the middle of a stream", self.target.base_url)
            raise errors.read_event_error(data) from None
        stream.usage = reader.usage
        for event in events:
            _push(stream, event)

    async def _read_vectors(self, stream: RequestStream, message: Embed, response: aiohttp.ClientResponse) -> None:
        data = await _read_body(response)
        try:
            if len(data) < _SLOW_BYTES:
                vectors, finished = read_vectors(message, data)
            else:
                vectors, finished = await asyncio.to_thread(read_vectors, message, data)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("%s: its vectors are not understood: %s", self.target.base_url, error)
            raise errors.make_broken() from error
        stream.usage = finished.usage
        for event in (Started(stream.id, finished.usage.prompt_tokens), vectors, finished):
            _push(stream, event)

    def _explain(self, error: Exception, *, has_output: bool) -> Exception:
        if (refusal := find_refusal(error)) is not None:
            return self._refuse_address(refusal)
        logger.warning("%s: %s", self.target.base_url, error or type(error).__name__)
        if not self.target.is_upstream and not has_output and not isinstance(error, TimeoutError):
            self._down_until_s = time.monotonic() + REST_S
            self._on_change()
            return LinkLost()
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return errors.make_unreachable()
        return errors.make_silent() if isinstance(error, TimeoutError) else errors.make_broken()

    def _refuse_address(self, error: FetchError) -> ServiceError:
        logger.error("%s: %s See ATRIUM_UPSTREAM_PRIVATE_HOSTS.", self.target.base_url, error)
        return errors.make_unreachable()


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Raises ServiceError for more than the limit."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise errors.make_broken()
        pieces.append(piece)
    return b"".join(pieces)


def _push(stream: RequestStream, event: StreamEvent) -> None:
    """Raises SlowConsumer: the request ends."""
    if not stream.push(event):
        raise SlowConsumer
