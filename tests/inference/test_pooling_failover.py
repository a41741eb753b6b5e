"""kill -9 in the middle of a request for embeddings: another replica computes it, and the rows are the same."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from apps.accounts.caller import Caller
from apps.inference.generate import generate
from apps.inference.requests import PoolingRequest
from apps.registry import directory
from apps.usage.models import UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import Embed, Finished, Started, Vectors
from tests.factories import make_model, make_replica
from tests.inference.conftest import read_usage
from tests.tiny_encoders import make_embedder, make_texts
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow

TEXTS = make_texts(2000)


@pytest.fixture
def workers(transactional_db: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WorkerProcess]]:
    """Two replicas that compute one text a step."""
    model = make_model("embedder")
    folder = make_embedder(tmp_path_factory.mktemp("model"))
    with run_worker(folder, max_num_seqs=1) as first, run_worker(folder, max_num_seqs=1) as second:
        for worker in (first, second):
            make_replica(model, port=worker.port, token=worker.token)
        yield [first, second]
        recorder.close()
        directory.invalidate()


async def test_kill_9_during_a_request_changes_no_row(workers: list[WorkerProcess], caller: Caller) -> None:
    rows: list[dict[int, np.ndarray]] = []
    for name in ("whole", "cut"):
        request = PoolingRequest(
            id=name, caller=caller, model="embedder", endpoint="embeddings", message=Embed("", TEXTS)
        )
        rows.append({})
        num_started, last, is_cut = 0, None, False
        async for event in generate(request):
            if isinstance(event, Vectors):
                data = np.frombuffer(event.data, "<f4").reshape(-1, event.width)
                rows[-1].update(zip(event.indices, data, strict=True))
                if name == "cut" and len(rows[-1]) >= 5 and not is_cut:
                    is_cut = True
                    await kill_the_busy_one(workers)
            num_started += isinstance(event, Started)
            last = event
        assert num_started == 1
        assert isinstance(last, Finished)
    assert len(rows[1]) == len(TEXTS)
    assert max(np.abs(rows[0][index] - rows[1][index]).max() for index in rows[0]) < 1e-5
    whole, cut = await read_usage("whole"), await read_usage("cut")
    assert (cut.status, cut.prompt_tokens) == (UsageStatus.OK, whole.prompt_tokens)


async def kill_the_busy_one(workers: list[WorkerProcess]) -> None:
    healths = [await asyncio.to_thread(worker.get_health) for worker in workers]
    (busy,) = [w for w, (_, health) in zip(workers, healths, strict=True) if health["stats"]["num_running"]]
    busy.process.kill()
