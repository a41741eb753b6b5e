"""Fixtures around the scripted worker: tests/conftest.py imports them for every test."""

from collections.abc import Iterator

import pytest
from django.utils import timezone

from apps.registry import directory
from apps.registry.models import HostedModel, Node, Replica, ReplicaState
from apps.usage.recorder import recorder
from tests.scripted_worker import ScriptedWorker


def register_worker(worker: ScriptedWorker, *, model: str = "scripted", **fields: object) -> HostedModel:
    """A HostedModel of this name (made with `fields` if need be) with a READY replica that is this worker."""
    hosted, _ = HostedModel.objects.get_or_create(name=model, defaults={"source": "scripted/source", **fields})
    node, _ = Node.objects.get_or_create(name="local")
    Replica.objects.create(
        model=hosted,
        node=node,
        state=ReplicaState.READY,
        host=worker.host,
        port=worker.port,
        token=worker.token,
        ready_at=timezone.now(),
    )
    directory.invalidate()
    return hosted


@pytest.fixture
def worker() -> Iterator[ScriptedWorker]:
    """A started worker that no row names yet."""
    with ScriptedWorker() as started:
        yield started


@pytest.fixture
def scripted_model(worker: ScriptedWorker, transactional_db: None) -> Iterator[HostedModel]:
    """The model "scripted" with one ready replica: the fixture `worker`. All usage is written before the test ends."""
    yield register_worker(worker)
    recorder.close()
    directory.invalidate()
