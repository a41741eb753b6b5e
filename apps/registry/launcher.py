"""Starts, finds and ends worker processes on this machine. Knows folders and processes, no database.

A worker outlives the process that started it. It is found again by pid and start time, so that a pid that was given to
somebody else is never signalled. Its folder is DATA_DIR/replicas/<id>: configuration (0600: it holds the token), the
process's identity, and its log.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import psutil
from django.conf import settings

from gpu_worker.protocol import WorkerConfig, write_worker_config

LOG_TAIL_LINES = 40
EXIT_WAIT_S = 2.0  # a process of many threads is a zombie a moment before its exit code can be had
MAX_LOG_READ_BYTES = 64 * 1024
# What the worker must not see: it may run code from a model's repository.
_PRIVATE_PREFIXES = ("ATRIUM_", "DJANGO_", "DATABASE_URL", "REDIS_URL")

_children: dict[int, subprocess.Popen[bytes]] = {}  # started by this very process: only it can reap them


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process's identity: pids are used again, pids with a start time are not."""

    pid: int
    started_at: float  # Unix seconds


def open_listener(host: str) -> socket.socket:
    """A listening socket on a free port. Raises OSError. The port is known before the worker exists, and a web process
    that dials early waits in the backlog instead of being refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, 0), family=family, backlog=128)


def launch(replica_id: str, config: WorkerConfig) -> WorkerProcess:
    """Start a worker in a session of its own, with `config.fd` handed over. Raises OSError."""
    folder = get_folder(replica_id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config_file = folder / "config.json"
    write_worker_config(config, config_file)
    command = [*settings.WORKER_COMMAND, "--config", str(config_file)]
    return start(replica_id, command, fd=config.fd)


def start(
    replica_id: str, command: list[str], *, environment: dict[str, str] | None = None, fd: int | None = None
) -> WorkerProcess:
    """Start any program as this replica, in its folder, which exists. Raises OSError."""
    folder = get_folder(replica_id)
    log_file = folder / "worker.log"
    with contextlib.suppress(FileNotFoundError):
        log_file.replace(folder / "worker.log.1")
    with log_file.open("wb") as log:
        child = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=_make_environment() | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if fd is None else (fd,),
        )
    _children[child.pid] = child
    process = WorkerProcess(child.pid, psutil.Process(child.pid).create_time())
    (folder / "process.json").write_text(json.dumps([process.pid, process.started_at]))
    return process


def is_running(process: WorkerProcess) -> bool:
    """Whether it still runs. Reaps it when it was our child; a zombie of somebody else's counts as gone."""
    child = _children.get(process.pid)
    if child is not None and child.poll() is not None:
        return False
    try:
        found = psutil.Process(process.pid)
        # The start time is computed from the boot time, which moves a little with the clock.
        return abs(found.create_time() - process.started_at) < 2 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def get_exit_code(process: WorkerProcess) -> int | None:
    """Of a process that is gone: None when it was not our child. Negative: the signal that ended it."""
    child = _children.pop(process.pid, None)
    if child is None:
        return None
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(EXIT_WAIT_S)
    return None


def terminate(process: WorkerProcess) -> None:
    """Ask it to finish its work and end. To be called once: a second time means at once."""
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)


def kill(process: WorkerProcess) -> None:
    """End it and everything it has started, now."""
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads its own group: see start_new_session
        if (child := _children.get(process.pid)) is not None:
            child.wait()


def terminate_once(replica_id: str, process: WorkerProcess, *, kill_after_s: float) -> None:
    """`terminate` on the first call, `kill` on a call after `kill_after_s`; for processes that no row remembers."""
    marker = get_folder(replica_id) / "stopping"
    if not marker.exists():
        marker.touch()
        terminate(process)
    elif time.time() - marker.stat().st_mtime > kill_after_s:
        kill(process)


def wait_until_gone(process: WorkerProcess, timeout_s: float) -> bool:
    """Blocks until it has ended, at most so long. Returns whether it has."""
    deadline_s = time.monotonic() + timeout_s
    while is_running(process):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def read_log_tail(replica_id: str, num_lines: int = LOG_TAIL_LINES) -> str:
    """The last lines it wrote, empty when there is no log."""
    try:
        with (get_folder(replica_id) / "worker.log").open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - MAX_LOG_READ_BYTES))
            lines = deque(log.read().decode(errors="replace").splitlines(), maxlen=num_lines)
    except FileNotFoundError:
        return ""
    return "\n".join(lines)


def read_process(replica_id: str) -> WorkerProcess | None:
    """The process last started in this folder, running or not."""
    try:
        pid, started_at = json.loads((get_folder(replica_id) / "process.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return WorkerProcess(pid, started_at)


def list_folders() -> list[str]:
    """Ids of the replicas that have a folder on this machine."""
    root = settings.DATA_DIR / "replicas"
    return [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []


def remove_folder(replica_id: str) -> None:
    """Forget a replica that is over, token and log included."""
    shutil.rmtree(get_folder(replica_id), ignore_errors=True)


def get_folder(replica_id: str) -> Path:
    """Where a replica keeps its files on this machine."""
    folder: Path = settings.DATA_DIR / "replicas" / replica_id
    return folder


def _make_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE_PREFIXES)}
    return kept | {"PYTHONUNBUFFERED": "1"}
