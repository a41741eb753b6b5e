"""Real workers with a tiny embedding model and a tiny reranker behind the API, one each for all tests of a file."""

from collections.abc import Iterator

import pytest

from apps.registry import directory
from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.factories import make_model, make_replica
from tests.tiny_encoders import make_embedder, make_reranker
from tests.worker_process import WorkerProcess, run_worker


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = make_embedder(tmp_path_factory.mktemp("embedder"), settings={"prompts": {"query": "query : "}})
    with run_worker(folder, max_num_seqs=4) as process:
        yield process


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with run_worker(make_reranker(tmp_path_factory.mktemp("reranker"))) as process:
        yield process


@pytest.fixture
def embedding_api(api: Api, embedder: WorkerProcess) -> Iterator[Api]:
    """The model "embedder"."""
    yield from _host(api, "embedder", embedder)


@pytest.fixture
def reranking_api(api: Api, reranker: WorkerProcess) -> Iterator[Api]:
    """The model "reranker"."""
    yield from _host(api, "reranker", reranker)


def _host(api: Api, name: str, worker: WorkerProcess) -> Iterator[Api]:
    make_replica(make_model(name), port=worker.port, token=worker.token)
    yield api
    recorder.close()
    directory.invalidate()
