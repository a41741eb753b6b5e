"""This machine as a node with a data folder of its own, and the fake worker program."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.registry import directory, launcher, reconcile, services
from apps.registry.launcher import WorkerProcess
from apps.registry.models import HostedModel, Node, Replica, ReplicaState
from tests.factories import make_model
from tests.live.installation import wait_until

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


@pytest.fixture(autouse=True)
def fresh_directory() -> Iterator[None]:
    """The snapshot of another test's database is nobody's business."""
    directory.invalidate()
    yield
    directory.invalidate()


@pytest.fixture
def node(db: None, settings: Any, tmp_path: Path) -> Iterator[Node]:
    """This machine; whatever was started on it is killed in the end."""
    settings.DATA_DIR = tmp_path
    settings.WORKER_COMMAND = [sys.executable, str(FAKE_WORKER)]
    yield services.register_node(name=settings.NODE_NAME, address=settings.NODE_ADDRESS, info={})
    for replica_id in launcher.list_folders():
        if (process := launcher.read_process(replica_id)) is not None:
            launcher.kill(process)
            launcher.get_exit_code(process)


class Machine:
    """Drives one replica of the fake worker as the reconcile loop would."""

    def __init__(self, model: HostedModel) -> None:
        services.request_replica(model_id=model.pk)
        self.id = str(model.replicas.get().pk)

    @property
    def row(self) -> Replica:
        return Replica.objects.select_related("model").get(pk=self.id)

    @property
    def process(self) -> WorkerProcess:
        process = launcher.read_process(self.id)
        assert process is not None
        return process

    def step(self) -> Replica:
        """One look of the reconcile loop at this replica."""
        reconcile.reconcile_replica(self.row)
        return self.row

    def say(self, **health: Any) -> None:
        """From now on the process answers this."""
        draft = launcher.get_folder(self.id) / "health.draft"
        draft.write_text(json.dumps(health))
        os.replace(draft, launcher.get_folder(self.id) / "health.json")

    def step_until(self, state: ReplicaState, timeout_s: float = 30) -> Replica:
        """Look again and again until the row shows this state."""
        return wait_until(lambda: (row := self.step()).state == state and row, timeout_s, f"the replica is {state}")

    def start(self, **health: Any) -> Replica:
        """Up to READY."""
        self.step()
        self.say(status="ready", idle_s=0.0, **health)
        return self.step_until(ReplicaState.READY)

    def crash(self) -> None:
        """kill -9, seen and done."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        assert launcher.wait_until_gone(self.process, 5)

    def age(self, seconds: float, *fields: str) -> None:
        """Set these times of the row back: what was waited for has passed."""
        values = {name: getattr(self.row, name) - timedelta(seconds=seconds) for name in fields}
        Replica.objects.filter(pk=self.id).update(**values)

    def skip_backoff(self) -> None:
        """The back-off has passed."""
        Replica.objects.filter(pk=self.id).update(restart_after=timezone.now())


@pytest.fixture
def machine(node: Node) -> Callable[..., Machine]:
    """Make a model of this source with one replica, requested."""
    return lambda source="fine", **fields: Machine(make_model("fake", source=source, **fields))
