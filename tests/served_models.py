"""A real web process with four real workers, one for each kind of model: chat, vectors, scores, recordings."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.tiny_encoders import make_embedder, make_reranker
from tests.tiny_whisper import save_tiny_whisper
from tests.web_process import WebProcess, run_python, run_web_process
from tests.worker_process import DEMO_MODEL, WorkerProcess, run_worker

START_TIMEOUT_S = 300.0  # of a worker; it takes seconds where nothing else runs
MODELS = ("chat", "embedder", "reranker", "whisper")

# Runs in the installation under test: a model for each pair of a port and a token.
_SEED = """
import sys, django
django.setup()
from tests.factories import make_model, make_replica
for given in sys.argv[1:]:
    name, port, token = given.split(",")
    make_replica(make_model(name), port=int(port), token=token)
"""


@contextlib.contextmanager
def serve_models(folder: Path) -> Iterator[WebProcess]:
    """Serve MODELS by their names."""
    sources = {
        "chat": DEMO_MODEL,
        "embedder": make_embedder(folder / "embedder"),
        "reranker": make_reranker(folder / "reranker"),
        "whisper": save_tiny_whisper(folder / "whisper"),
    }
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(run_web_process(folder / "data", worker_ports=[], worker_token=""))
        workers: list[tuple[str, WorkerProcess]] = []
        for name, source in sources.items():  # one after the other: a busy machine would start none of them in time
            workers.append((name, stack.enter_context(run_worker(source, wait_until_ready=False))))
            workers[-1][1].wait_for("ready", START_TIMEOUT_S)
        run_python(web.environment, "-c", _SEED, *(f"{name},{worker.port},{worker.token}" for name, worker in workers))
        yield web
