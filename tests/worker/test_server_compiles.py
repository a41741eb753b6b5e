"""A worker compiles while it serves: the answers before, during and after are the same."""

import asyncio
from pathlib import Path

import pytest

from tests.worker.link import chat, open_link
from tests.worker_process import WorkerProcess, run_worker

COMPILED = "the model runs on a compiled forward pass"
COMPILE_TIMEOUT_S = 600.0  # on two busy cores
STOP_TIMEOUT_S = 60.0
SMALL = {"num_blocks": 64, "max_model_len": 1024, "dtype": "float32"}
QUESTION = "Write a sentence about rivers."


async def wait_for_log(worker: WorkerProcess, line: str) -> None:
    async with asyncio.timeout(COMPILE_TIMEOUT_S):
        while line not in worker.log:
            assert worker.process.poll() is None, worker.log
            await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S + 60)
async def test_answers_stay_the_same_while_a_worker_compiles(tmp_path: Path) -> None:
    with run_worker(compile="auto", compile_cache=str(tmp_path), **SMALL) as worker:
        async with open_link(worker) as link:
            before = await link.ask(chat("before", QUESTION, max_tokens=40))
            assert COMPILED not in worker.log
            await wait_for_log(worker, COMPILED)
            after = await link.ask(chat("after", QUESTION, max_tokens=40))
        assert after.token_ids() == before.token_ids()
    with run_worker(compile="on", compile_cache=str(tmp_path), **SMALL) as worker:  # ready only when compiled
        assert COMPILED in worker.log
        async with open_link(worker) as link:
            again = await link.ask(chat("again", QUESTION, max_tokens=40))
        assert again.token_ids() == before.token_ids()


@pytest.mark.slow
async def test_a_worker_that_is_stopped_ends_its_compiler(tmp_path: Path) -> None:
    """SIGTERM while the child compiles: the worker does not wait for it."""
    with run_worker(compile="auto", compile_cache=str(tmp_path), **SMALL) as worker:
        assert await asyncio.to_thread(worker.stop, STOP_TIMEOUT_S) == 0
        assert COMPILED not in worker.log


@pytest.mark.slow
def test_compiling_what_cannot_be_compiled_is_refused_with_a_reason(tmp_path: Path) -> None:
    with run_worker(
        compile="on", compile_cache=str(tmp_path), dtype="float16", num_blocks=64, wait_until_ready=False
    ) as worker:
        assert worker.process.wait(90) == 3
        assert "float16" in worker.log.splitlines()[-1]
