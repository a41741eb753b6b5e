"""Real workers with an embedding model and a reranker, over their WebSocket: vectors, scores, aborts, other tasks."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpu_worker.protocol import Embed, Failed, Finished, Score, Started, Vectors
from tests.tiny_encoders import make_embedder, make_reranker, make_texts
from tests.worker.link import Answer, Link, chat, open_link
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # real workers: seconds each

NUM_MANY = 1500  # with one input a step: long enough to be seen at work


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with run_worker(make_embedder(tmp_path_factory.mktemp("embedder")), max_num_seqs=1) as process:
        yield process


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with run_worker(make_reranker(tmp_path_factory.mktemp("reranker"))) as process:
        yield process


def join(answer: Answer) -> np.ndarray:
    """The rows of an answer in the order of its inputs."""
    rows: dict[int, Any] = {}
    for event in answer.of_type(Vectors):
        rows.update(zip(event.indices, np.frombuffer(event.data, "<f4").reshape(-1, event.width), strict=True))
    return np.stack([rows[index] for index in range(len(rows))])


async def test_vectors_come_as_they_are_computed_and_once(embedder: WorkerProcess) -> None:
    texts = make_texts(12)
    async with open_link(embedder) as link:
        answer = await link.ask(Embed("e1", texts))
        alone = [join(await link.ask(Embed(f"e1-{i}", [text])))[0] for i, text in enumerate(texts)]
    started, *parts, finished = answer.events
    assert isinstance(started, Started)
    assert all(isinstance(part, Vectors) for part in parts)
    assert sorted(index for part in parts for index in part.indices) == list(range(12))
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert finished.usage.prompt_tokens == started.prompt_tokens > 12
    assert finished.usage.completion_tokens == 0
    assert finished.timing.device_s > 0
    assert np.abs(join(answer) - np.stack(alone)).max() < 1e-5


async def test_scores_are_numbers(reranker: WorkerProcess) -> None:
    async with open_link(reranker) as link:
        scores = join(await link.ask(Score("s1", ["w1"], make_texts(5))))
    assert scores.shape == (5, 1)
    assert ((scores > 0) & (scores < 1)).all()


async def test_abort_ends_it_between_batches(embedder: WorkerProcess) -> None:
    async with open_link(embedder) as link:
        await link.send(Embed("a1", ["w1 w2 w3"] * NUM_MANY))
        await link.wait_for("a1", Vectors)
        await link.abort("a1")
        finished = await link.wait_for("a1", Finished)
        assert finished.reason == "abort"
        assert finished.usage.prompt_tokens == 5 * NUM_MANY
        assert (await link.ping()).num_running == 0


async def test_another_user_is_served_meanwhile(embedder: WorkerProcess) -> None:
    async with open_link(embedder) as link:
        await link.send(Embed("m1", ["w1 w2 w3"] * NUM_MANY, user="one"))
        await link.wait_for("m1", Vectors)
        answer = await link.ask(Embed("m2", ["w4"], user="other"))
        assert isinstance(answer.end, Finished)
        assert (await link.ping()).num_running == 1
        await link.abort("m1")


async def test_lost_connection_frees_the_engine(embedder: WorkerProcess) -> None:
    async with open_link(embedder) as link:
        async with open_link(embedder) as other:
            await other.send(Embed("l1", ["w1 w2 w3"] * NUM_MANY))
            await other.wait_for("l1", Vectors)
            other.socket.transport.abort()
        async with asyncio.timeout(10):
            while (await link.ping()).num_running:
                pass


async def test_refusals_name_the_field(embedder: WorkerProcess) -> None:
    async with open_link(embedder) as link:
        failures = [
            (await link.ask(message)).events
            for message in (Embed("r1", ["w1"], dimensions=1000), Embed("r2", ["w1 " * 1000]), Embed("r3", []))
        ]
    assert [(failed.code, failed.param) for (failed,) in failures] == [
        ("invalid_request", "dimensions"),
        ("context_length_exceeded", "input"),
        ("invalid_request", "input"),
    ]


async def refuse(link: Link, message: Any) -> Failed:
    (failed,) = (await link.ask(message)).events
    return failed


async def test_other_tasks_are_refused_by_name(embedder: WorkerProcess, reranker: WorkerProcess) -> None:
    async with open_link(embedder) as link:
        failed = await refuse(link, chat("t1", "Hello!"))
        assert (failed.code, failed.param) == ("unsupported", "model")
        assert failed.message == "This model is for embeddings, not for chat and text completions."
        assert (await refuse(link, Score("t2", ["w1"], ["w2"]))).param == "model"
    async with open_link(reranker) as link:
        assert "rerank and score" in (await refuse(link, Embed("t3", ["w1"]))).message
    with run_worker() as generator:
        async with open_link(generator) as link:
            assert (await refuse(link, Embed("t4", ["Hello"]))).param == "model"


async def test_ready_and_health_describe_the_model(embedder: WorkerProcess) -> None:
    async with open_link(embedder, wait_until_ready=False) as link:
        info = (await link.wait_ready()).info
    assert (info.task, info.engine, info.dimensions, info.max_model_len) == ("embed", "pooling", 32, 60)
    status, health = await asyncio.to_thread(embedder.get_health)
    assert status == 200
    assert health["info"]["task"] == "embed"
