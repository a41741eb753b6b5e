"""The demo model behind the whole application, one worker for all tests of a module."""

from collections.abc import Iterator

import pytest

from apps.registry import directory
from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.factories import make_model, make_replica
from tests.worker_process import WorkerProcess, run_worker


@pytest.fixture(scope="module")
def demo_worker() -> Iterator[WorkerProcess]:
    with run_worker() as worker:
        yield worker


@pytest.fixture
def demo_api(api: Api, demo_worker: WorkerProcess) -> Iterator[Api]:
    """The server, a key, and the model "demo"."""
    make_replica(make_model("demo"), port=demo_worker.port, token=demo_worker.token)
    yield api
    recorder.close()
    directory.invalidate()
