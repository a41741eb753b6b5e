"""A web process's end of the worker protocol, for tests: a real WebSocket, events sorted by request."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from gpu_worker.protocol import (
    MAX_FRAME_BYTES,
    Abort,
    Delta,
    Failed,
    Finished,
    FromWorker,
    Generate,
    Ping,
    Pong,
    Ready,
    Sampling,
    ToWorker,
    decode_from_worker,
    encode_to_worker,
)

WAIT_S = 30.0
Event = TypeVar("Event")


@dataclass
class Answer:
    """Everything that was said of one request."""

    events: list[Any]

    @property
    def end(self) -> Finished | Failed:
        return self.events[-1]

    def join(self, index: int = 0) -> str:
        """The text of one choice."""
        return "".join(e.text for e in self.events if isinstance(e, Delta) and e.index == index)

    def token_ids(self, index: int = 0) -> list[int]:
        return [t for e in self.events if isinstance(e, Delta) and e.index == index for t in e.token_ids]

    def of_type(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Link:
    """One connection. Events are read by a task of its own from the start."""

    socket: ClientConnection
    events: dict[str, asyncio.Queue[Any]] = field(default_factory=dict)
    others: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    num_frames: int = 0

    async def read(self) -> None:
        async for frame in self.socket:
            self.num_frames += 1
            for event in decode_from_worker(frame):
                queue = self.others if not hasattr(event, "id") else self.queue(event.id)
                queue.put_nowait(event)

    def queue(self, request_id: str) -> asyncio.Queue[FromWorker]:
        return self.events.setdefault(request_id, asyncio.Queue())

    async def send(self, message: ToWorker) -> None:
        await self.socket.send(encode_to_worker(message))

    async def next(self, request_id: str) -> Any:
        """The next event of a request."""
        async with asyncio.timeout(WAIT_S):
            return await self.queue(request_id).get()

    async def wait_for(self, request_id: str, kind: type[Event]) -> Event:
        """The first event of this kind that is still to come; those before it are dropped."""
        while True:
            event = await self.next(request_id)
            if isinstance(event, kind):
                return event

    async def wait_ready(self) -> Ready:
        while True:
            async with asyncio.timeout(WAIT_S):
                event = await self.others.get()
            if isinstance(event, Ready):
                return event

    async def collect(self, request_id: str) -> Answer:
        """Every event up to the last."""
        events = []
        while True:
            events.append(await self.next(request_id))
            if isinstance(events[-1], Failed) or (isinstance(events[-1], Finished) and events[-1].last):
                return Answer(events)

    async def ask(self, message: Generate) -> Answer:
        await self.send(message)
        return await self.collect(message.id)

    async def ping(self, nonce: int = 1) -> Pong:
        await self.send(Ping(nonce))
        while True:
            async with asyncio.timeout(WAIT_S):
                event = await self.others.get()
            if isinstance(event, Pong) and event.nonce == nonce:
                return event

    async def abort(self, request_id: str) -> None:
        await self.send(Abort(request_id))


class Address(Protocol):
    """Where a worker is and what it wants to see."""

    @property
    def url(self) -> str: ...

    @property
    def headers(self) -> dict[str, str]: ...


@contextlib.asynccontextmanager
async def open_link(worker: Address, *, wait_until_ready: bool = True) -> AsyncIterator[Link]:
    """Connect as a web process does."""
    async with connect(
        worker.url, additional_headers=worker.headers, compression=None, max_size=MAX_FRAME_BYTES
    ) as socket:
        link = Link(socket)
        reader = asyncio.create_task(link.read())
        try:
            if wait_until_ready:
                await link.wait_ready()
            yield link
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


def chat(request_id: str, text: str, **fields: Any) -> Generate:
    """A greedy chat request of one user message; keywords of Sampling and Generate."""
    names = set(Sampling.__struct_fields__)
    sampling = {"seed": 7, "temperature": 0.0, "max_tokens": 40} | {k: v for k, v in fields.items() if k in names}
    others = {"messages": [{"role": "user", "content": text}]} | {k: v for k, v in fields.items() if k not in names}
    return Generate(id=request_id, kind="chat", sampling=Sampling(**sampling), **others)


def complete(request_id: str, prompt: str | list[int], **fields: Any) -> Generate:
    """A greedy text completion."""
    return msgspec.structs.replace(chat(request_id, "", **fields), kind="completion", messages=None, prompt=prompt)
