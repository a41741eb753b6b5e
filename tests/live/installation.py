"""A whole installation as a newcomer gets it: `manage.py serve` on a free port with its own data folder."""

import contextlib
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "atr_live-test-key-0123456789abcdefghijklmno"
ADMIN_PASSWORD = "live-test-admin-password"
MODEL = "atrium-demo"

logging.getLogger("httpx").setLevel(logging.WARNING)  # one line for each poll would bury what a failure says


@dataclass
class Installation:
    """A running `manage.py serve`: its address, its data folder and what its database says."""

    url: str
    data_dir: Path
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {API_KEY}"}

    def query(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        """Read the server's own database, from outside."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data_dir}/atrium.sqlite3?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            return db.execute(sql, parameters).fetchall()

    def get_ready_replica(self) -> sqlite3.Row | None:
        rows = self.query("SELECT * FROM registry_replica WHERE state = 'ready' ORDER BY created_at DESC LIMIT 1")
        return rows[0] if rows else None

    def get_worker_stats(self) -> dict[str, Any]:
        """What the replica's own health page says of its load."""
        replica = self.get_ready_replica()
        assert replica is not None
        response = httpx.get(
            f"http://{replica['host']}:{replica['port']}/health",
            headers={"Authorization": f"Bearer {replica['token']}"},
        )
        stats: dict[str, Any] = response.json()["stats"]
        return stats

    def wait_until_settled(self) -> None:
        """Until every request has its final row, which is written behind the last byte of an answer."""
        open_rows = "SELECT 1 FROM usage_usagerecord WHERE status = 'open'"
        wait_until(lambda: not self.query(open_rows), 120, "no request is open")

    def list_usage(self, since: str = "") -> list[sqlite3.Row]:
        return self.query("SELECT * FROM usage_usagerecord WHERE created_at > ? ORDER BY created_at", since)


def wait_until(check: Any, timeout_s: float, what: str) -> Any:
    """Poll until `check()` is truthy and return that; for states of other processes that send no event."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def run_installation(data_dir: Path, *arguments: str) -> Iterator[Installation]:
    """Start, wait until the demo model answers, and stop with one Ctrl-C."""
    port = find_free_port()
    environment = {
        **os.environ,
        "ATRIUM_DATA_DIR": str(data_dir),
        "ATRIUM_API_KEY": API_KEY,
        "ATRIUM_ADMIN_PASSWORD": ADMIN_PASSWORD,
    }
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    data_dir.mkdir(parents=True, exist_ok=True)
    log = (data_dir / "serve.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "serve", "--port", str(port), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    server = Installation(f"http://127.0.0.1:{port}", data_dir, process)

    def is_up() -> bool:
        assert process.poll() is None, f"serve ended:\n{(data_dir / 'serve.log').read_text()}"
        try:
            return httpx.get(f"{server.url}/ready").status_code == 200 and server.get_ready_replica() is not None
        except (httpx.TransportError, sqlite3.OperationalError):
            return False

    try:
        wait_until(is_up, 120, "the server and its demo model are ready")
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            log.close()
