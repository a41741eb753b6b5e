"""The real engine behind generate(): kill -9 in the middle of answers, and another replica goes on token for token."""

import asyncio
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from apps.inference.requests import GenerationRequest
from apps.registry import directory
from apps.registry.models import Adapter, HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import Structure
from tests.factories import make_model, make_replica
from tests.inference.conftest import Heard, MakeRequest, read, read_usage
from tests.tiny_adapters import make_adapter
from tests.worker_process import DEMO_MODEL, WorkerProcess, run_worker

pytestmark = pytest.mark.slow

NUM_STREAMS = 8
NUM_TOKENS = 800  # long enough that no answer is complete when its replica is killed


@pytest.fixture
def workers(transactional_db: None) -> Iterator[list[WorkerProcess]]:
    """Two replicas of the demo model, each a process with the engine in it."""
    model = make_model("demo")
    options = {"dtype": "float32", "num_threads": 1, "max_model_len": 1024, "kv_cache_bytes": 64 * 2**20}
    with run_worker(**options) as first, run_worker(**options) as second:
        for worker in (first, second):
            make_replica(model, port=worker.port, token=worker.token)
        directory.invalidate()
        yield [first, second]
        recorder.close()
        directory.invalidate()


def make_requests(make_request: MakeRequest, prefix: str) -> list[GenerationRequest]:
    """Half greedy, half sampled with a seed; long enough to be killed in the middle."""
    requests = []
    for i in range(NUM_STREAMS):
        sampling = {
            "max_tokens": NUM_TOKENS,
            "ignore_eos": True,
            "seed": 1000 + i,
            "temperature": 0.0 if i % 2 else 1.0,
        }
        messages = [{"role": "user", "content": f"Tell me about number {i}."}]
        requests.append(make_request(f"{prefix}-{i}", model="demo", messages=messages, sampling=sampling))
    return requests


async def test_kill_9_during_8_streams_changes_no_token(
    workers: list[WorkerProcess], make_request: MakeRequest
) -> None:
    whole = await asyncio.gather(*(read(request) for request in make_requests(make_request, "whole")))
    heards = [Heard() for _ in range(NUM_STREAMS)]
    requests = make_requests(make_request, "cut")
    readings = [asyncio.create_task(read(*pair)) for pair in zip(requests, heards, strict=True)]
    await asyncio.gather(*(heard.until(lambda h: h.num_tokens >= 5) for heard in heards))
    assert all(heard.num_tokens < NUM_TOKENS for heard in heards)
    healths = [(await asyncio.to_thread(worker.get_health))[1] for worker in workers]
    running = [health["stats"]["num_running"] for health in healths]
    assert max(running) >= NUM_STREAMS / 2
    workers[running.index(max(running))].process.kill()  # whichever the prompts led to
    await asyncio.gather(*readings)
    for undisturbed, disturbed in zip(whole, heards, strict=True):
        assert disturbed.text == undisturbed.text
        assert (disturbed.num_started, disturbed.num_tokens) == (1, NUM_TOKENS)
    rows = [await read_usage(request.id) for request in requests]
    assert {(row.status, row.completion_tokens) for row in rows} == {(UsageStatus.OK, NUM_TOKENS)}
    assert len({row.replica_id for row in rows}) == 1, "all of them ended on the replica that lived"
    assert await UsageRecord.objects.acount() == 2 * NUM_STREAMS


async def test_kill_9_changes_no_token_of_answers_with_adapters(
    workers: list[WorkerProcess], make_request: MakeRequest, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    names = ["tuned-0", "tuned-1"]
    model = await HostedModel.objects.aget(name="demo")
    for seed, name in enumerate(names):
        make_adapter(base, tmp_path / name, seed=seed, spread=0.1)
        await Adapter.objects.acreate(name=name, hosted_model=model, source=str(tmp_path / name))
    directory.invalidate()
    sampling = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0.0}
    make = functools.partial(make_request, sampling=sampling)
    whole = await asyncio.gather(*(read(make(f"whole-{name}", model=name)) for name in (*names, "demo")))
    assert len({heard.text for heard in whole}) == 3
    heards = [Heard() for _ in whole]
    readings = [
        asyncio.create_task(read(make(f"cut-{name}", model=name), heard))
        for name, heard in zip((*names, "demo"), heards, strict=True)
    ]
    await asyncio.gather(*(heard.until(lambda h: h.num_tokens >= 5) for heard in heards))
    healths = [(await asyncio.to_thread(worker.get_health))[1] for worker in workers]
    busy = [worker for worker, health in zip(workers, healths, strict=True) if set(names) & set(health["adapters"])]
    busy[0].process.kill()
    await asyncio.gather(*readings)
    assert [heard.text for heard in heards] == [heard.text for heard in whole]
    assert {heard.num_tokens for heard in heards} == {NUM_TOKENS}
    rows = [await read_usage(f"cut-{name}") for name in names]
    assert [(row.model_name, row.status, row.completion_tokens) for row in rows] == [
        (name, UsageStatus.OK, NUM_TOKENS) for name in names
    ]


async def test_kill_9_in_the_middle_of_json_keeps_it_json(
    workers: list[WorkerProcess], make_request: MakeRequest
) -> None:
    digit = {"type": "integer", "minimum": 0, "maximum": 9}
    schema = {"type": "array", "items": digit, "minItems": 120, "maxItems": 120}  # too long to be whole by then
    fields = {"model": "demo", "structure": Structure("json_schema", json.dumps(schema))}
    samplings = [{"seed": 7 + i, "temperature": float(i % 2)} for i in range(4)]
    make = functools.partial(make_request, **fields)
    whole = await asyncio.gather(*(read(make(f"whole-{s['seed']}", sampling=s)) for s in samplings))
    heards = [Heard() for _ in samplings]
    readings = [
        asyncio.create_task(read(make(f"cut-{s['seed']}", sampling=s), heard))
        for s, heard in zip(samplings, heards, strict=True)
    ]
    await asyncio.gather(*(heard.until(lambda h: h.num_tokens >= 5) for heard in heards))
    workers[0].process.kill()
    await asyncio.gather(*readings)
    assert [heard.text for heard in heards] == [heard.text for heard in whole]
    for heard in heards:
        assert len(json.loads(heard.text)) == 120
        assert [finished.reason for finished in heard.finishes] == ["stop"]


async def test_cut_frees_the_engine_and_is_counted_exactly(
    workers: list[WorkerProcess], make_request: MakeRequest
) -> None:
    heards = [Heard() for _ in range(NUM_STREAMS)]
    requests = make_requests(make_request, "cut")
    readings = [asyncio.create_task(read(*pair)) for pair in zip(requests, heards, strict=True)]
    await asyncio.gather(*(heard.until(lambda h: h.num_tokens >= 3) for heard in heards))
    for reading in readings:
        reading.cancel()
    await asyncio.wait(readings)
    rows = [await read_usage(request.id) for request in requests]
    for row, heard in zip(rows, heards, strict=True):
        assert row.status == UsageStatus.CANCELLED
        assert heard.num_tokens <= row.completion_tokens < NUM_TOKENS
        assert row.prompt_tokens > 0
    for worker in workers:
        stats = (await asyncio.to_thread(worker.get_health))[1]["stats"]
        assert (stats["num_running"], stats["num_waiting"]) == (0, 0)
        assert stats["free_blocks"] == stats["num_blocks"]
