"""A real server for the API tests: uvicorn with the whole application, in a thread of its own."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.recorder import recorder
from project.asgi import application
from tests.factories import make_key
from tests.scripted_fixtures import scripted_model, worker

__all__ = ["scripted_model", "worker"]  # fixtures

START_TIMEOUT_S = 20.0
TIMEOUT_S = 60  # of one answer: a real worker imports what a first recording or picture needs
SETTLE_TIMEOUT_S = 30.0
WAIT_S = 100.0  # for whatever comes by itself: a busy machine is slow


def wait_for_settled_rows(num_rows: int) -> list[UsageRecord]:
    """So many rows, all of them settled: after a cut that is when the worker has said its counts."""
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        assert recorder.flush()
        rows = list(UsageRecord.objects.exclude(status=UsageStatus.OPEN))
        if len(rows) == num_rows:
            return rows
        every = list(UsageRecord.objects.values_list("endpoint", "status", "error_code"))
        assert time.monotonic() < deadline_s, f"{num_rows} settled rows were expected, there is {every}"


def wait_until(condition: Callable[[], Any]) -> Any:
    """What the condition gives, once it holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline_s, "it never came to that"
        time.sleep(0.02)
    return result


@dataclass(frozen=True)
class Api:
    """Where the server listens and a key that it takes."""

    url: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def client(self, **options: object) -> httpx.Client:
        """An HTTP client with the key."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=TIMEOUT_S, **options)

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        """One request with a JSON body."""
        with self.client() as client:
            return client.post(path, json=body, **options)

    @contextmanager
    def connect(self, path: str, body: bytes) -> Iterator[http.client.HTTPConnection]:
        """A connection on which the request is sent and no answer awaited; `close` it to leave."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        connection.request("POST", path, body, self.headers | {"content-type": "application/json"})
        try:
            yield connection
        finally:
            connection.close()


class ThreadedServer(uvicorn.Server):
    """uvicorn outside the main thread; `started_event` is set once it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.started_event = threading.Event()

    async def startup(self, sockets: list[object] | None = None) -> None:
        await super().startup(sockets)
        self.started_event.set()

    @property
    def port(self) -> int:
        return self.servers[0].sockets[0].getsockname()[1]


@pytest.fixture(scope="session")
def server(django_db_setup: None) -> Iterator[str]:
    """The base URL of the running application, the same for all tests: it keeps nothing of what a test made."""
    config = uvicorn.Config(application, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5)
    running = ThreadedServer(config)
    thread = threading.Thread(target=running.run, name="web", daemon=True)
    thread.start()
    assert running.started_event.wait(START_TIMEOUT_S)
    yield f"http://127.0.0.1:{running.port}"
    running.should_exit = True
    thread.join(START_TIMEOUT_S)
    assert not thread.is_alive()


@pytest.fixture
def api(transactional_db: None, server: str) -> Api:
    """The server and a key."""
    directory.invalidate()
    return Api(server, make_key().secret)


@pytest.fixture
def chat_api(scripted_model: HostedModel, api: Api) -> Api:
    """The same with the model "scripted" behind it: the fixture `worker`."""
    return api
