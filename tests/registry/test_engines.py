"""Replicas of other engines: launched, watched, unloaded and given up like our own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from apps.registry import directory, launcher
from apps.registry.engine_processes import read_activity
from apps.registry.models import Engine, ReplicaState
from tests.factories import make_model, make_replica
from tests.registry.conftest import Machine

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
IDLE = 'vllm:num_requests_running{engine="0"} 0.0\nvllm:request_success_total{reason="stop"} 3.0\n'
BUSY = 'vllm:num_requests_running{engine="0"} 1.0\nvllm:request_success_total{reason="stop"} 3.0\n'


@pytest.fixture
def metrics(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake `vllm` is installed; what its page of metrics says, once this file exists and it is loaded."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE_ENGINE} "$@"\n')
    program.chmod(0o755)
    settings.ENGINE_EXECUTABLES = {"vllm": str(program), "sglang": str(tmp_path / "none"), "tgi": "none"}
    file = tmp_path / "metrics.txt"
    monkeypatch.setenv("FAKE_METRICS", str(file))
    return file


def test_a_replica_loads_is_ready_and_unloads_when_it_is_idle(machine: Callable[..., Machine], metrics: Path) -> None:
    replica = machine("fine", engine=Engine.VLLM, idle_timeout_s=60, tensor_parallel_size=2)
    replica.step_until(ReplicaState.LOADING)
    metrics.write_text(BUSY)
    row = replica.step_until(ReplicaState.READY)
    assert row.info == {"max_model_len": 77}
    log = launcher.read_log_tail(replica.id)
    assert "--served-model-name fake" in log
    assert "--tensor-parallel-size 2" in log
    assert row.token not in log
    assert replica.step().state == ReplicaState.READY  # it works
    metrics.write_text(IDLE)
    assert replica.step().state == ReplicaState.READY  # it has been idle since now
    activity = launcher.get_folder(replica.id) / "activity.json"
    activity.write_text("[3.0, 0.0]")
    assert replica.step().state == ReplicaState.DRAINING
    replica.age(10, "state_changed_at")
    replica.step_until(ReplicaState.STOPPED)


def test_one_that_cannot_load_fails_with_its_own_reason(machine: Callable[..., Machine], metrics: Path) -> None:
    row = machine("broken", engine=Engine.VLLM).step_until(ReplicaState.FAILED)
    assert row.last_error == "ValueError: the model has no weights"


def test_one_that_dies_is_started_again_and_a_lost_launcher_adopts_it(
    machine: Callable[..., Machine], metrics: Path
) -> None:
    metrics.write_text(IDLE)
    replica = machine("fine", engine=Engine.VLLM)
    replica.step_until(ReplicaState.READY)
    children = dict(launcher._children)
    launcher._children.clear()  # as in a Celery worker that was started again
    assert replica.step().state == ReplicaState.READY
    launcher._children.update(children)
    replica.crash()
    assert replica.step().state == ReplicaState.REQUESTED
    replica.skip_backoff()
    replica.step_until(ReplicaState.READY)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": Engine.SGLANG}, "set ATRIUM_SGLANG"),
        ({"engine": Engine.VLLM, "attn_implementation": "eager"}, "attn_implementation"),
    ],
    ids=["not-installed", "setting"],
)
def test_what_cannot_be_started_fails_at_once(
    machine: Callable[..., Machine], metrics: Path, fields: dict[str, Any], said: str
) -> None:
    row = machine("fine", **fields).step()
    assert row.state == ReplicaState.FAILED
    assert said in row.last_error


async def test_web_processes_find_it_by_http(transactional_db: None) -> None:
    model = await sync_to_async(make_model)("named", engine=Engine.VLLM)
    await sync_to_async(make_replica)(model, port=9, token="secret")
    [found] = await directory.get_replicas(model.pk)
    assert (found.url, found.dialect, found.served_name) == ("http://127.0.0.1:9/v1", "vllm", "named")
    assert not found.is_upstream


@pytest.mark.parametrize(
    ("text", "activity"),
    [
        (BUSY, (True, 3.0)),
        (IDLE + 'vllm:request_success_total{reason="length"} 2.0\nvllm:num_requests_waiting 0.0\n', (False, 5.0)),
        (
            'sglang:num_running_reqs{tp="0"} 0.0\nsglang:num_queue_reqs 2.0\nsglang:num_requests_total 4.0\n',
            (True, 4.0),
        ),
        ("tgi_queue_size 0\ntgi_batch_current_size 0\ntgi_request_count 6\n", (False, 6.0)),
        ("", (False, 0.0)),
    ],
    ids=["vllm-busy", "vllm-idle", "sglang", "tgi", "nothing"],
)
def test_metrics_say_whether_it_works(text: str, activity: tuple[bool, float]) -> None:
    assert read_activity(text) == activity
