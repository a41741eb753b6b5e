"""Child processes of `serve` (web and Celery): started together, stopped together, never left behind.

Three nets, since a parent may be killed: one Ctrl-C reaches the parent alone (children have sessions of their own) and
it stops them in order; on Linux the kernel sends SIGTERM to children whose parent died; and a file remembers their
identities, so that the next `serve` ends what is left.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import psutil

from apps.registry import launcher
from apps.registry.launcher import WorkerProcess

_PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 15.0


class AlreadyServing(Exception):
    """Another `serve` holds this data folder."""


class Children:
    """The processes, by name. A context manager: entering takes the data folder, leaving stops all that still run."""

    def __init__(self, data_dir: Path) -> None:
        self._record = data_dir / "serve.json"
        self._lock_file = data_dir / "serve.lock"
        self._lock: IO[str] | None = None
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Take the data folder and end what an earlier `serve` left. Raises AlreadyServing."""
        self._lock = self._lock_file.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when the process dies
        except BlockingIOError:
            self._lock.close()
            raise AlreadyServing from None
        self._end_leftovers()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._children):
            self.stop(name)
        self._record.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def start(self, name: str, command: Sequence[str], *, cwd: Path, environment: dict[str, str]) -> None:
        """Start one; its output goes where ours goes. Raises OSError."""
        self._children[name] = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - we have one thread
        )
        identities = [
            [child.pid, psutil.Process(child.pid).create_time()]
            for child in self._children.values()
            if child.poll() is None
        ]
        self._record.write_text(json.dumps(identities))

    def find_dead(self) -> str | None:
        """The name of one that has ended by itself."""
        return next((name for name, child in self._children.items() if child.poll() is not None), None)

    def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL for its whole group when it has not ended after STOP_TIMEOUT_S."""
        child = self._children.pop(name, None)
        if child is None:
            return
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def kill(self) -> None:
        """End all at once."""
        for child in self._children.values():
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        try:
            leftovers = [WorkerProcess(*identity) for identity in json.loads(self._record.read_text())]
        except (FileNotFoundError, ValueError):
            return
        for process in leftovers:
            launcher.terminate(process)
        for process in leftovers:
            if not launcher.wait_until_gone(process, STOP_TIMEOUT_S):
                launcher.kill(process)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
