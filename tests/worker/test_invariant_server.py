"""A worker in batch-invariant mode: bf16 answers alone and in a crowd are the same tokens; and what it refuses."""

import asyncio
from pathlib import Path

import pytest

from tests.worker.link import chat, open_link
from tests.worker_process import run_worker

BUILD_TIMEOUT_S = 600.0  # of the native library, on busy cores
QUESTIONS = ["What is Atrium?", "Count from 3 to 40.", "Tell me a long story.", "Who are you?"]


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
async def test_answers_in_bf16_do_not_depend_on_the_crowd(tmp_path: Path) -> None:
    options = {"dtype": "bfloat16", "num_blocks": 512, "max_model_len": 512, "speculation": "auto"}
    with run_worker(batch_invariant=True, compile_cache=str(tmp_path), wait_until_ready=False, **options) as worker:
        worker.wait_for("ready", BUILD_TIMEOUT_S)
        requests = [
            chat(f"{index}-{temperature}", question, temperature=temperature, max_tokens=60)
            for index, question in enumerate(QUESTIONS * 3)
            for temperature in (0.0, 1.0)
        ]
        async with open_link(worker) as link:
            alone = [(await link.ask(request)).token_ids() for request in requests]
            together = await asyncio.gather(*(link.ask(request) for request in requests))
        assert [answer.token_ids() for answer in together] == alone


@pytest.mark.slow
def test_a_model_that_cannot_be_invariant_is_not_served(tmp_path: Path) -> None:
    options = {"engine": "fallback", "num_blocks": 64, "wait_until_ready": False}
    with run_worker(batch_invariant=True, compile_cache=str(tmp_path), **options) as worker:
        assert worker.process.wait(90) == 3
        assert "batch_invariant is set to on" in worker.log.splitlines()[-1]
