"""Loads a repository as a worker does and drives its engine step by step, in the test's own thread."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu_worker.protocol import Embed, Score, WorkerConfig
from gpu_worker.server.loading import ServedModel, load_served_model
from gpu_worker.tasks.pooling.request import PoolingRequest

Message = Embed | Score


def serve(folder: Path, **config: Any) -> ServedModel:
    """A loaded model; small batches, so that a few inputs make several."""
    fields = {"max_num_seqs": 8, "max_num_batched_tokens": 200} | config
    return load_served_model(WorkerConfig(model=str(folder), **fields), lambda _part, _stage: None)


def make_request(served: ServedModel, message: Message) -> PoolingRequest:
    """The engine's request of a message."""
    prepared = served.frontend.prepare(message)
    return PoolingRequest(f"{message.id}/0", prepared.sequences, prepared.options, user=message.user)


def run(served: ServedModel, *messages: Message) -> list[np.ndarray]:
    """All messages together: the rows of each."""
    requests = [make_request(served, message) for message in messages]
    results: dict[str, dict[int, np.ndarray]] = {request.id: {} for request in requests}
    for request in requests:
        served.engine.add(request)
    while served.engine.has_work():
        for output in served.engine.step():
            assert output.error is None
            rows = np.frombuffer(output.rows, "<f4").reshape(-1, output.width)
            results[output.request.id].update(zip(output.indices, rows, strict=True))
    return [np.stack([results[r.id][i] for i in range(len(r.sequences))]) for r in requests]


def embed(served: ServedModel, inputs: Sequence[str | list[int]], **fields: Any) -> np.ndarray:
    """The vectors of one request."""
    return run(served, Embed("e", list(inputs), **fields))[0]
