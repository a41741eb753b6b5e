"""Starts real workers for tests: `python -m gpu_worker` on a port that was free, loading a real model."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_worker.protocol import WorkerConfig, write_worker_config

ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "demo_model"
DEMO_VOCAB_SIZE: int = json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"]
START_TIMEOUT_S = 90.0
POLL_S = 0.05


@dataclass
class WorkerProcess:
    """A running worker. `url` is its WebSocket address, `headers` what a client must show."""

    process: subprocess.Popen[bytes]
    port: int
    token: str
    log_path: Path

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get_health(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of GET /health. Raises OSError when nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/health", headers=self.headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def wait_for(self, status: str, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """Poll /health until it says `status`. Raises AssertionError with the log when the worker ends or fails."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the worker ended with {self.process.returncode}:\n{self.log}"
            try:
                health = self.get_health()[1]
            except TimeoutError:  # it listens, and imports on a busy machine
                continue
            if health["status"] == status:
                return health
            assert health["status"] != "failed", f"{health['error']}\n{self.log}"
            time.sleep(POLL_S)
        raise AssertionError(f"the worker was not {status} within {timeout_s} s:\n{self.log}")

    @property
    def log(self) -> str:
        """Everything the worker has written so far."""
        return self.log_path.read_text(errors="replace")

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def run_worker(
    model: Path | str = DEMO_MODEL, *, wait_until_ready: bool = True, **config: Any
) -> Iterator[WorkerProcess]:
    """A worker with one torch thread; further keywords are fields of WorkerConfig. Killed at the end if it still runs.

    The listening socket is inherited, so the port is known and taken before the worker starts.
    """
    token = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="worker-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        fields = {
            "num_threads": 1,
            "local_files_only": True,
            "kv_cache_bytes": 64 * 1024 * 1024,
            "compile": "off",
            "speculation": "off",  # what is to be seen while it runs should run for a while
        } | config
        path = Path(folder) / "worker.json"
        write_worker_config(WorkerConfig(model=str(model), fd=listener.fileno(), token=token, **fields), path)
        log_path = Path(folder) / "worker.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpu_worker", "--config", str(path)],
                cwd=ROOT,
                env={**os.environ, "OMP_WAIT_POLICY": "passive"},
                pass_fds=[listener.fileno()],
                stderr=log,
                stdout=log,
            )
        worker = WorkerProcess(process, listener.getsockname()[1], token, log_path)
        listener.close()  # the worker's copy is the only one left: a connection fails once it has died
        try:
            if wait_until_ready:
                worker.wait_for("ready")
            yield worker
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
