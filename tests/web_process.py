"""A real web process for tests and benches: uvicorn over project.asgi, on a database of its own. Knows no test."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECRET = "atr_" + "k" * 43
MODEL = "scripted"
START_TIMEOUT_S = 120.0

# Runs in the installation under test: a member with a key, and a model whose ready replicas are at these addresses.
_SEED = """
import sys, django
django.setup()
from apps.accounts.keys import create_key
from tests.factories import make_model, make_replica, make_team, make_user
secret, name, token, *ports = sys.argv[1:]
team = make_team()
create_key(team=team, user=make_user(team=team), name="test", secret=secret)
model = make_model(name)
for port in ports:
    make_replica(model, port=int(port), token=token)
"""


@dataclass(frozen=True)
class WebProcess:
    """A running server. `environment` runs `manage.py` and scripts in the same installation."""

    process: subprocess.Popen[bytes]
    port: int
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What a client with a key sends."""
        return {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def run_web_process(
    data_dir: Path, *, worker_ports: list[int], worker_token: str, database_url: str = ""
) -> Iterator[WebProcess]:
    """Migrate, seed, serve; at the end SIGTERM, or kill -9 when that is not enough."""
    environment = {
        **os.environ,
        "ATRIUM_DATA_DIR": str(data_dir),
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": str(ROOT),
        "ATRIUM_LOG_LEVEL": "warning",
    }
    run_python(environment, "manage.py", "migrate", "--verbosity", "0")
    run_python(environment, "-c", _SEED, SECRET, MODEL, worker_token, *map(str, worker_ports))
    port = find_free_port()
    process = start_uvicorn("project.asgi:application", port, environment)
    try:
        yield WebProcess(process, port, environment)
    finally:
        stop_process(process)


def start_uvicorn(application: str, port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start and wait until it listens. By port, not by descriptor: uvicorn then takes the socket for a Unix one and
    leaves TCP_NODELAY off, which costs 40 ms a request on kept connections."""
    options = ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "3", "--backlog", "4096"]
    command = [sys.executable, "-m", "uvicorn", application, "--port", str(port), *options]
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return process
        time.sleep(0.05)
    stop_process(process)
    raise AssertionError(f"{application} did not start within {START_TIMEOUT_S} s")


def find_free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def run_python(environment: dict[str, str], *arguments: str) -> str:
    """Run to the end in the installation and return what was printed. Raises CalledProcessError."""
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def stop_process(process: subprocess.Popen[bytes], timeout_s: float = 15.0) -> None:
    """SIGTERM, then kill."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
