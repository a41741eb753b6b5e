"""What becomes of a replica when its process lives, hangs, dies, or is not wanted any more."""

import pytest

from apps.registry import launcher, reconcile, services
from apps.registry.models import HostedModel, Replica, ReplicaState
from tests.factories import make_model


def test_it_goes_from_requested_to_ready(machine):
    m = machine()
    assert m.step().state == ReplicaState.STARTING
    m.say(status="loading", progress=0.4, stage="reading weights")
    row = m.step_until(ReplicaState.LOADING)
    assert (row.progress, row.stage) == (0.4, "reading weights")
    m.say(status="loading", progress=0.8, stage="reading weights")
    assert m.step().progress == 0.8
    m.say(status="ready", progress=1.0, info={"engine": "paged"})
    row = m.step()
    assert (row.state, row.progress, row.info) == (ReplicaState.READY, 1.0, {"engine": "paged"})
    assert row.ready_at is not None


def test_a_killed_worker_comes_back_with_a_new_token(machine):
    m = machine()
    before = m.start()
    m.crash()
    row = m.step()
    assert row.state == ReplicaState.REQUESTED
    assert "signal 9" in row.last_error
    m.step()
    assert m.row.state == ReplicaState.REQUESTED, "the back-off has not passed"
    m.skip_backoff()
    after = m.step_until(ReplicaState.READY)
    assert after.pid != before.pid
    assert after.token != before.token
    assert after.last_error == ""


def test_back_off_doubles_and_a_crash_loop_ends_with_its_reason(machine):
    m = machine("crash")
    delays = []
    for _ in range(services.MAX_RESTARTS):
        m.step()
        assert launcher.wait_until_gone(m.process, 10)
        row = m.step()
        assert row.state == ReplicaState.REQUESTED
        delays.append(round((row.restart_after - row.state_changed_at).total_seconds()))
        m.skip_backoff()
    assert delays == [1, 2, 4, 8, 16]
    m.step()
    assert launcher.wait_until_gone(m.process, 10)
    row = m.step()
    assert row.state == ReplicaState.FAILED
    assert "5 times in a row" in row.last_error
    assert "exit code 1" in row.last_error
    assert "it was not to be" in row.log_tail


def test_a_worker_that_was_stable_begins_a_new_row_of_restarts(machine):
    m = machine()
    m.start()
    Replica.objects.update(num_restarts=services.MAX_RESTARTS)
    m.age(services.CRASH_WINDOW_S + 1, "ready_at")
    m.crash()
    row = m.step()
    assert (row.state, row.num_restarts) == (ReplicaState.REQUESTED, 1)


@pytest.mark.parametrize("how", ["health", "exit"])
def test_a_model_that_cannot_be_loaded_fails_at_once_with_the_workers_reason(machine, how):
    m = machine("broken" if how == "exit" else "fine")
    m.step()
    if how == "exit":
        assert launcher.wait_until_gone(m.process, 10)
    else:
        m.say(status="failed", error="The model could not be loaded: it has no weights.")
    row = m.step_until(ReplicaState.FAILED)
    assert row.last_error == "The model could not be loaded: it has no weights."
    m.step()
    assert not launcher.is_running(m.process)
    assert m.row.pid is None


@pytest.mark.slow
def test_a_hung_worker_is_killed_and_started_again(machine):
    m = machine("mute")
    m.step()
    Replica.objects.update(state=ReplicaState.READY)
    assert m.step().unhealthy_since is not None
    assert launcher.is_running(m.process)
    m.age(reconcile.READY_SILENCE_S, "unhealthy_since")
    row = m.step()
    assert row.state == ReplicaState.REQUESTED
    assert "did not answer" in row.last_error
    assert not launcher.is_running(m.process)


def test_silence_is_forgotten_when_it_answers_again(machine):
    m = machine()
    m.start()
    services.record_silence(replica=m.row)
    assert m.row.unhealthy_since is not None
    assert m.step().unhealthy_since is None


def test_idle_is_unloaded_and_work_in_flight_never_is(machine):
    m = machine(idle_timeout_s=60)
    m.start()
    m.say(status="ready", idle_s=59.0)
    assert m.step().state == ReplicaState.READY
    m.say(status="ready", idle_s=None)
    assert m.step().state == ReplicaState.READY
    m.say(status="ready", idle_s=60.0)
    assert m.step().state == ReplicaState.DRAINING
    m.say(status="ready", idle_s=None)  # a request came in the last moment
    m.age(reconcile.DRAIN_SETTLE_S + 1, "state_changed_at")
    assert m.step().stop_signalled_at is None
    assert launcher.is_running(m.process)
    m.say(status="ready", idle_s=0.1)
    assert m.step().stop_signalled_at is not None
    process = m.process
    row = m.step_until(ReplicaState.STOPPED)
    assert not launcher.is_running(process)
    assert "fake worker" in row.log_tail
    assert not launcher.get_folder(m.id).exists()


@pytest.mark.parametrize("fields", [{"idle_timeout_s": 0}, {"idle_timeout_s": 1, "min_replicas": 1}])
def test_what_is_to_stay_is_not_unloaded(machine, fields):
    m = machine(**fields)
    m.start()
    m.say(status="ready", idle_s=1e6)
    assert m.step().state == ReplicaState.READY


def test_a_preloaded_model_stays(machine, settings):
    settings.PRELOAD_MODELS = ["fake"]
    m = machine(idle_timeout_s=1)
    m.start()
    m.say(status="ready", idle_s=1e6)
    assert m.step().state == ReplicaState.READY


def test_draining_waits_until_every_web_process_knows(machine):
    m = machine()
    m.start()
    services.begin_drain(replica=m.row)
    assert m.step().stop_signalled_at is None


def test_who_ignores_sigterm_is_killed(machine):
    m = machine("stubborn")
    m.start()
    services.begin_drain(replica=m.row)
    m.age(reconcile.DRAIN_SETTLE_S + 1, "state_changed_at")
    m.step()
    m.step()
    assert launcher.is_running(m.process)
    m.age(reconcile.KILL_AFTER_S + 1, "stop_signalled_at")
    m.step()
    assert not launcher.is_running(m.process)
    assert m.step().state == ReplicaState.STOPPED


def test_a_disabled_model_is_drained(machine):
    m = machine(min_replicas=1)
    m.start()
    HostedModel.objects.update(enabled=False)
    services.ensure_desired()
    assert m.row.state == ReplicaState.DRAINING


def test_a_deleted_models_process_is_ended(machine, node):
    m = machine()
    m.start()
    process = m.process
    HostedModel.objects.all().delete()
    reconcile.reconcile_node(node.name)
    assert launcher.wait_until_gone(process, 10)
    launcher.get_exit_code(process)
    reconcile.reconcile_node(node.name)
    assert launcher.list_folders() == []


def test_a_process_is_adopted_by_whoever_reconciles_next(machine, monkeypatch):
    """Celery was restarted: the process is not its child, and is found by pid and start time."""
    m = machine()
    before = m.start()
    children = dict(launcher._children)
    launcher._children.clear()
    assert m.step().state == ReplicaState.READY
    assert m.row.pid == before.pid
    launcher._children.update(children)


def test_a_start_that_was_interrupted_is_begun_again(machine):
    m = machine()
    services.mark_starting(replica=m.row, host="127.0.0.1", port=1, token="t")
    assert m.step().state == ReplicaState.STARTING
    m.age(reconcile.START_LOST_S + 1, "state_changed_at")
    assert m.step().state == ReplicaState.REQUESTED


def test_stop_node_ends_everything_and_waits(machine, node):
    m = machine()
    m.start()
    process = m.process
    reconcile.stop_node(node.name, timeout_s=10)
    assert not launcher.is_running(process)
    assert m.row.state == ReplicaState.STOPPED


def test_stop_node_ends_a_worker_that_has_only_just_failed(machine, node):
    m = machine()
    m.step()
    m.say(status="failed", error="The model could not be loaded: it has no weights.")
    m.step_until(ReplicaState.FAILED)
    process = m.process
    assert launcher.is_running(process)
    reconcile.stop_node(node.name, timeout_s=10)
    assert not launcher.is_running(process)
    assert (m.row.state, m.row.pid) == (ReplicaState.FAILED, None)


def test_min_replicas_are_kept_up(node):
    model = make_model(min_replicas=2, max_replicas=2)
    services.ensure_desired()
    services.ensure_desired()
    assert model.replicas.filter(state=ReplicaState.REQUESTED).count() == 2


def test_more_than_max_replicas_are_drained_the_youngest_first(node):
    model = make_model(min_replicas=3, max_replicas=3)
    services.ensure_desired()
    HostedModel.objects.update(min_replicas=1, max_replicas=1)
    services.ensure_desired()
    left = model.replicas.get(state=ReplicaState.REQUESTED)
    assert left == model.replicas.order_by("created_at").first()


def test_replicas_of_a_lost_machine_fail(machine, node):
    m = machine(min_replicas=1)
    m.start()
    type(node).objects.update(last_seen_at="2020-01-01T00:00:00Z")
    services.ensure_desired()
    assert m.row.state == ReplicaState.FAILED
    assert node.name in m.row.last_error
