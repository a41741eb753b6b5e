"""What a consumer does when its server, not its client, ends a request; by the ASGI protocol alone."""

import asyncio
from typing import Any

import msgspec
import pytest

from apps.core.db import run_db
from apps.inference.pool import get_pool
from apps.registry.models import HostedModel
from project.asgi import application
from tests.api.sse import parse_events
from tests.factories import make_key
from tests.scripted_worker import ScriptedWorker

HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}


class Exchange:
    """One request to the application as a server makes it. `sent` is what the application has answered."""

    def __init__(self, secret: str, body: object) -> None:
        self.sent: list[Any] = []
        self._body = msgspec.json.encode(body)
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"authorization", f"Bearer {secret}".encode())],
        }
        self._messages = [{"type": "http.request", "body": self._body, "more_body": False}]
        self._news = asyncio.Event()
        self.task = asyncio.create_task(application(self._scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        return self._messages.pop() if self._messages else await asyncio.Future()

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self._news.set()

    async def until_sent(self, num_messages: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sent) < num_messages:
                self._news.clear()
                await self._news.wait()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


@pytest.mark.parametrize("is_stream", [True, False])
async def test_server_that_stops_tells_the_client_and_frees_the_worker(
    scripted_model: HostedModel, worker: ScriptedWorker, is_stream: bool
) -> None:
    worker.say("a", "b", hold_after=1)
    exchange = Exchange((await run_db(make_key)).secret, HELLO | {"stream": is_stream})
    await worker.until(lambda worker: worker.num_sent == 1)
    if is_stream:
        await exchange.until_sent(2)
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    await worker.until(lambda worker: worker.num_running == 0)
    await get_pool().close()
    if is_stream:
        assert parse_events(exchange.text)[-1]["error"]["code"] == "service_unavailable"
    else:
        assert exchange.sent[0]["status"] == 503
    assert exchange.sent[-1]["more_body"] is False
