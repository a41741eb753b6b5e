"""A client of a worker for benches: requests over one WebSocket, as from a web process, and when each token came."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect

from gpu_worker.protocol import Delta, Failed, Finished, Generate, Sampling, decode_from_worker, encode_to_worker
from tests.worker_process import WorkerProcess


@dataclass
class Answer:
    """One request's tokens: how many, and when they came (seconds of `time.perf_counter`)."""

    asked_s: float
    token_times_s: list[float] = field(default_factory=list)
    num_cached_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        """From the question to the first token."""
        return self.token_times_s[0] - self.asked_s

    @property
    def gaps_s(self) -> list[float]:
        """Between each two tokens."""
        return [later - earlier for earlier, later in itertools.pairwise(self.token_times_s)]


class WorkerLink:
    """Asks the worker for greedy answers of a fixed length."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self._numbers = itertools.count()
        self._open: dict[str, tuple[Answer, asyncio.Future[Answer]]] = {}

    async def ask(self, prompt: str | list[int], num_tokens: int, *, user: str = "", priority: int = 0) -> Answer:
        """The whole answer. Raises RuntimeError when the worker refuses."""
        request_id = str(next(self._numbers))
        ended: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[request_id] = Answer(time.perf_counter()), ended
        sampling = Sampling(seed=0, temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        message = Generate(
            id=request_id, kind="completion", prompt=prompt, sampling=sampling, user=user, priority=priority
        )
        await self._link.send(encode_to_worker(message))
        return await ended

    async def read(self) -> None:
        """Read frames until the connection ends."""
        async for frame in self._link:
            now_s = time.perf_counter()
            for event in decode_from_worker(bytes(frame)):
                if isinstance(event, Delta):
                    self._open[event.id][0].token_times_s += [now_s] * len(event.token_ids)
                elif isinstance(event, Finished):
                    answer, ended = self._open.pop(event.id)
                    answer.num_cached_tokens = event.usage.cached_tokens
                    ended.set_result(answer)
                elif isinstance(event, Failed):
                    self._open.pop(event.id)[1].set_exception(RuntimeError(event.message))


@asynccontextmanager
async def open_link(worker: WorkerProcess) -> AsyncIterator[WorkerLink]:
    """Connect, read in the background, disconnect."""
    async with connect(worker.url, additional_headers=worker.headers, max_size=None) as connection:
        link = WorkerLink(connection)
        reader = asyncio.create_task(link.read())
        try:
            yield link
        finally:
            reader.cancel()
