"""A real worker with a tiny speech model behind the API, one for all tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.registry import directory
from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.factories import make_model, make_replica
from tests.tiny_whisper import save_tiny_whisper
from tests.worker_process import WorkerProcess, run_worker


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def whisper_worker(whisper_folder: Path) -> Iterator[WorkerProcess]:
    with run_worker(whisper_folder) as worker:
        yield worker


@pytest.fixture
def audio_api(api: Api, whisper_worker: WorkerProcess) -> Iterator[Api]:
    """The server, a key, and the model "whisper"."""
    make_replica(make_model("whisper"), port=whisper_worker.port, token=whisper_worker.token)
    directory.invalidate()
    yield api
    recorder.close()
    directory.invalidate()
