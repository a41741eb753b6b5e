"""One small worker with the demo model for all tests of a file, and a link to it for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.worker.link import Link, open_link
from tests.worker_process import WorkerProcess, run_worker

NUM_BLOCKS = 256
MAX_MODEL_LEN = 2048


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    with run_worker(
        max_model_len=MAX_MODEL_LEN, num_blocks=NUM_BLOCKS, max_num_seqs=8, max_waiting=40, dtype="float32"
    ) as process:
        yield process


@pytest.fixture
async def link(worker: WorkerProcess) -> AsyncIterator[Link]:
    async with open_link(worker) as open_:
        yield open_
