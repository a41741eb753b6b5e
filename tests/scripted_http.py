"""An HTTP server of OpenAI's API that answers as a test tells it, also by breaking: a real socket, in a thread.

It stands in for servers that are not ours: what it says is what they were recorded or documented to say.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

WAIT_S = 30.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedHttp:
    """The server. `handler` answers every request; what was asked is in `bodies` and `headers`."""

    def __init__(self) -> None:
        self.handler: Handler = answer_json({})
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.port = 0
        self.left = threading.Event()  # set when a client closed its connection before the answer was whole
        self._loop = asyncio.new_event_loop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stream(self, *chunks: Any, done: bool = True) -> None:
        """Answer every following request with these events."""
        self.handler = answer_stream(*chunks, done=done)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        if request.method == "POST":
            self.bodies.append(await request.json())
        try:
            return await self.handler(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise


@contextmanager
def run_scripted_http() -> Iterator[ScriptedHttp]:
    """Listens on a free port of this machine until the end."""
    server = ScriptedHttp()
    loop = server._loop
    thread = threading.Thread(target=loop.run_forever, name="scripted-http", daemon=True)
    thread.start()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.port = runner.addresses[0][1]

    asyncio.run_coroutine_threadsafe(start(), loop).result(WAIT_S)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


def answer_json(body: Any, status: int = 200, **headers: str) -> Handler:
    """The whole answer."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return handle


def answer_stream(*chunks: Any, done: bool = True, cut: bool = False, hang: bool = False) -> Handler:
    """Events; then `[DONE]`, the connection cut in the middle, or nothing more for ever. Texts go out as they are."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            text = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"
            await response.write(text.encode())
        if hang:
            await asyncio.Event().wait()
        if cut:
            assert request.transport is not None
            request.transport.abort()
            return response
        if done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return handle


def make_chunk(
    content: str | None = None, *, finish: str | None = None, index: int = 0, **delta: Any
) -> dict[str, Any]:
    """A chunk of a chat completion as OpenAI writes it."""
    piece = {**delta} if content is None else {"content": content, **delta}
    choice = {"index": index, "delta": piece, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "there", "choices": [choice]}


def make_usage(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    """The last chunk, which holds usage alone."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}
