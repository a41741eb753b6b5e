"""What the tests of generate() share: a caller, requests, and reading a stream to its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from apps.accounts.caller import Caller
from apps.inference.events import Event, Waiting
from apps.inference.generate import generate
from apps.inference.pool import get_pool
from apps.inference.requests import GenerationRequest
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta, Finished, Started
from tests.factories import make_team, make_user
from tests.scripted_fixtures import scripted_model, worker

__all__ = ["scripted_model", "worker"]  # fixtures

MakeRequest = Callable[..., GenerationRequest]


@pytest.fixture
def caller(transactional_db: None) -> Iterator[Caller]:
    """A member of a team, whose usage is all written before the test ends."""
    team = make_team()
    user = make_user(team=team)
    yield Caller(user_id=user.pk, username=user.username, team_id=team.pk)
    recorder.close()


@pytest.fixture
def make_request(caller: Caller) -> MakeRequest:
    """Makes valid requests for the model "scripted"."""

    def make(request_id: str = "req-1", **fields: object) -> GenerationRequest:
        values = {
            "caller": caller,
            "model": "scripted",
            "endpoint": "test",
            "kind": "chat",
            "messages": [{"role": "user", "content": "hello"}],
            "stream": True,
        }
        return GenerationRequest(id=request_id, **{**values, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True)
async def hang_up() -> AsyncIterator[None]:
    """No link outlives its test."""
    yield
    await get_pool().close()


@dataclass
class Heard:
    """All that a reader was told."""

    events: list[Event] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, condition: Callable[["Heard"], bool]) -> None:
        """Until what was heard so far fulfils the condition."""
        async with asyncio.timeout(30):
            while not condition(self):
                self._news.clear()
                await self._news.wait()

    @property
    def texts(self) -> dict[int, str]:
        texts: dict[int, str] = {}
        for event in self.events:
            if isinstance(event, Delta):
                texts[event.index] = texts.get(event.index, "") + event.text
        return texts

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def waits(self) -> list[Waiting]:
        return [event for event in self.events if isinstance(event, Waiting)]

    @property
    def num_started(self) -> int:
        return sum(isinstance(event, Started) for event in self.events)

    @property
    def finishes(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    @property
    def num_tokens(self) -> int:
        return sum(len(event.token_ids) for event in self.events if isinstance(event, Delta))


async def read(request: GenerationRequest, heard: Heard | None = None) -> Heard:
    """Read to the end, into `heard` where given, so that what came before an error can be seen."""
    heard = heard or Heard()
    async for event in generate(request):
        heard.add(event)
    return heard


async def read_usage(request_id: str = "req-1") -> UsageRecord:
    """The request's row, once it is settled: after a cut that is when the worker has said its counts."""
    async with asyncio.timeout(30):
        while True:
            assert await asyncio.to_thread(recorder.flush)
            row = await UsageRecord.objects.aget(pk=request_id)
            if row.status != UsageStatus.OPEN:
                return row
