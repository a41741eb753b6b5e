"""Real processes: started with a socket, found again, ended."""

import os
import stat
from pathlib import Path

import pytest

from apps.registry import launcher, reconcile
from apps.registry.health import get_health
from apps.registry.launcher import WorkerProcess
from apps.registry.models import ReplicaState
from gpu_worker.protocol import read_worker_config
from tests.live.installation import wait_until


def test_a_worker_gets_its_socket_and_token(machine):
    m = machine()
    row = m.step()
    assert row.state == ReplicaState.STARTING
    assert row.port
    m.say(status="ready", progress=1.0, idle_s=3.5)
    health = wait_until(lambda: get_health("127.0.0.1", row.port, row.token), 10, "it answers")
    assert (health.status, health.idle_s, health.is_idle) == ("ready", 3.5, True)
    assert get_health("127.0.0.1", row.port, "another token") is None


def test_its_configuration_is_for_the_owner_alone(machine):
    m = machine()
    token = m.step().token
    config = launcher.get_folder(m.id) / "config.json"
    assert token in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(launcher.get_folder(m.id).stat().st_mode) == 0o700


def test_it_leads_a_session_of_its_own_and_sees_none_of_our_secrets(machine, monkeypatch):
    monkeypatch.setenv("ATRIUM_API_KEY", "a-secret-of-the-web")
    monkeypatch.setenv("DATABASE_URL", "postgres://a-secret@db/atrium")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    m = machine()
    m.step()
    assert os.getsid(m.process.pid) == m.process.pid
    path = Path(f"/proc/{m.process.pid}/environ")
    environ = wait_until(path.read_text, 10, "the kernel has laid out its environment")  # empty for a moment
    names = {entry.partition("=")[0] for entry in environ.split("\0")}
    assert {"HF_HUB_OFFLINE", "PATH"} <= names
    assert not names & {"ATRIUM_API_KEY", "DATABASE_URL", "DJANGO_SETTINGS_MODULE"}


def test_a_pid_that_was_given_to_another_process_is_left_alone(machine):
    m = machine()
    m.step()
    reused = WorkerProcess(m.process.pid, m.process.started_at - 3600)
    assert not launcher.is_running(reused)
    launcher.kill(reused)
    assert launcher.is_running(m.process)


def test_a_killed_child_is_reaped_and_its_signal_is_known(machine):
    m = machine()
    m.step()
    m.crash()
    assert launcher.get_exit_code(m.process) == -9
    with pytest.raises(ChildProcessError):
        os.waitpid(m.process.pid, os.WNOHANG)


def test_log_tail_holds_the_last_lines(machine, monkeypatch):
    m = machine()
    m.step()
    log = launcher.get_folder(m.id) / "worker.log"
    log.write_text("".join(f"line {i}\n" for i in range(100_000)))
    lines = launcher.read_log_tail(m.id).splitlines()
    assert len(lines) == launcher.LOG_TAIL_LINES
    assert lines[-1] == "line 99999"


def test_a_program_that_cannot_be_started_is_tried_again_later(machine, settings):
    settings.WORKER_COMMAND = ["/nowhere/python"]
    row = machine().step()
    assert row.state == ReplicaState.REQUESTED
    assert row.restart_after is not None
    assert "could not be started" in row.last_error


def test_settings_that_no_worker_knows_fail_at_once_and_name_the_field(machine):
    row = machine(quantization="2bit").step()
    assert row.state == ReplicaState.FAILED
    assert "quantization" in row.last_error


def test_a_quantization_reaches_the_worker(machine):
    m = machine(quantization="int4")
    m.step()
    config = read_worker_config(launcher.get_folder(m.id) / "config.json")
    assert (config.quantization, config.approved_code) == ("int4", None)


def test_two_launches_of_one_replica_start_one_process(machine):
    m = machine()
    stale = m.row
    m.step()
    pid = m.process.pid
    reconcile.launch_replica(stale)
    assert m.process.pid == pid
    assert m.row.pid == pid
