"""The least an ASGI application can do to stream the same bytes: no routing, no auth, no worker, no ledger.

One timer wakes all streams 1 / ATRIUM_BENCH_STEP_S times a second, as an engine's steps would.
"""

import asyncio
import json
import os
from typing import Any

STEP_S = float(os.environ.get("ATRIUM_BENCH_STEP_S", "0.02"))
CHUNK = (
    b'data: {"id":"chatcmpl-00000000000000000000000000000000","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"scripted","system_fingerprint":"fp_0000000000","choices":[{"index":0,"delta":{"content":" t000"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
DONE = b"data: [DONE]\n\n"
ANSWER = json.dumps({"id": "chatcmpl-" + "0" * 32, "object": "chat.completion", "choices": [{"x": "y" * 300}]}).encode()
SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

_waiters: list[asyncio.Future[None]] = []
_ticking: list[asyncio.Task[None]] = []


async def _tick() -> None:
    while True:
        await asyncio.sleep(STEP_S)
        waiters = _waiters.copy()
        _waiters.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Any POST: an SSE stream of `max_tokens` chunks, or one JSON answer."""
    if scope["type"] != "http":
        return
    body = json.loads((await receive())["body"])
    if not body["stream"]:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ANSWER})
        return
    loop = asyncio.get_running_loop()
    if not _ticking:
        _ticking.append(loop.create_task(_tick()))
    await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
    for _ in range(body["max_tokens"]):
        waiter = loop.create_future()
        _waiters.append(waiter)
        await waiter
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": DONE})
