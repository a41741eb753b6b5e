"""One machine's part of reconciliation: makes its processes agree with its replicas' rows, and the rows with them.

Every step may be repeated at any time. Nothing here waits for a process: what is not done yet is done next time.
"""

import fcntl
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from django.conf import settings
from django.utils import timezone

from apps.registry import approvals, engine_processes, launcher, services
from apps.registry.engine_commands import EngineSettingError
from apps.registry.health import Health, get_health
from apps.registry.launcher import WorkerProcess
from apps.registry.models import HostedModel, Replica, ReplicaState
from apps.registry.states import LIVE_STATES, PROCESS_STATES
from gpu_worker.protocol import WorkerConfig, find_code_line

logger = logging.getLogger(__name__)

LOAD_FAILED_EXIT_CODE = 3  # the worker's word for: this model cannot be loaded, another attempt would fail too
READY_SILENCE_S = 10.0  # a ready worker that does not answer for so long is hung
ENGINE_SILENCE_S = 60.0  # the same of another engine, whose HTTP server also does other work
LOADING_SILENCE_S = 120.0  # importing and reading weights may hold it for longer
START_LOST_S = 15.0  # STARTING without a process for so long: who started it died in the middle
DRAIN_SETTLE_S = 3.0  # until every web process has seen DRAINING: snapshots.MAX_AGE_S and a request on its way
DRAIN_TIMEOUT_S = 300.0
KILL_AFTER_S = 45.0  # after SIGTERM; the worker's own grace for running requests is shorter


def reconcile_node(node_name: str) -> None:
    """Look after every replica of this machine once. Returns at once when another call is doing so."""
    with _only_one_here() as is_first:
        if not is_first:
            return
        services.mark_node_seen(name=node_name)
        states = [*LIVE_STATES, *PROCESS_STATES, ReplicaState.FAILED]
        for replica in Replica.objects.filter(node__name=node_name, state__in=states).select_related("model"):
            reconcile_replica(replica)
        _end_orphans()


def reconcile_replica(replica: Replica) -> None:
    """Take one replica a step further."""
    match replica.state:
        case ReplicaState.REQUESTED:
            launch_replica(replica)
        case ReplicaState.STARTING | ReplicaState.LOADING | ReplicaState.READY:
            _watch(replica)
        case ReplicaState.DRAINING:
            _drain(replica)
        case ReplicaState.FAILED:
            _clear_failed(replica)


def launch_replica(replica: Replica) -> None:
    """Start the process of a REQUESTED replica, unless its back-off has not passed or another call was first."""
    if replica.state != ReplicaState.REQUESTED:
        return
    if replica.restart_after is not None and replica.restart_after > timezone.now():
        return
    with launcher.open_listener(settings.NODE_BIND_HOST) as listener:
        token = secrets.token_urlsafe(32)
        port = listener.getsockname()[1]
        if not services.mark_starting(replica=replica, host=settings.NODE_ADDRESS, port=port, token=token):
            return
        try:
            if replica.model.is_launched_engine:
                listener.close()  # it opens the port itself
                process = engine_processes.launch(str(replica.pk), replica.model, port=port, token=token)
            else:
                config = make_config(replica.model, token=token, fd=listener.fileno())
                process = launcher.launch(str(replica.pk), config)
        except msgspec.ValidationError as error:
            services.fail(replica=replica, error=f"The model's settings are not valid: {error}.")
            return
        except EngineSettingError as error:
            services.fail(replica=replica, error=f"The engine cannot be started ({error.field}): {error}")
            return
        except OSError as error:
            services.schedule_restart(replica=replica, error=f"The process could not be started: {error.strerror}.")
            return
    services.record_process(replica=replica, pid=process.pid, started_at=process.started_at)


def make_config(model: HostedModel, *, token: str, fd: int) -> WorkerConfig:
    """What the worker is told. Raises msgspec.ValidationError, naming the field, for settings it does not know."""
    approved = approvals.find_approved(model)
    wanted = {
        "model": model.source,
        "revision": (approved and approved.commit) or model.revision,
        "approved_code": approved and approved.sha256,
        "fd": fd,
        "token": token,
        "dtype": model.dtype,
        "device": model.device,
        "attn_implementation": model.attn_implementation,
        "quantization": model.quantization,
        "max_model_len": model.max_model_len,
        "max_num_seqs": model.max_num_seqs,
        "kv_cache_bytes": model.kv_cache_bytes,
        "max_loras": model.max_loras,
        "speculation": model.speculation,
        "batch_invariant": model.batch_invariant,
        "tool_call_parser": model.tool_call_parser,
        "reasoning_parser": model.reasoning_parser,
        "num_threads": settings.WORKER_NUM_THREADS or None,
        "omp_wait_policy": settings.WORKER_OMP_WAIT_POLICY,
        "compile": settings.WORKER_COMPILE,
        "compile_cache": str(settings.DATA_DIR / "compiled"),
        "log_level": settings.LOG_LEVEL.lower(),
    }
    given = {name: value for name, value in wanted.items() if value not in ("", None)}
    return msgspec.convert(given, WorkerConfig)


def stop_node(node_name: str, *, timeout_s: float) -> None:
    """End every replica of this machine and wait: all are told at once, and after `timeout_s` by force.

    For the end of `serve`, when nothing else reconciles any more.
    """
    here = Replica.objects.filter(node__name=node_name)
    for replica in here.filter(state__in=LIVE_STATES):
        services.begin_drain(replica=replica)
    draining = list(here.filter(state=ReplicaState.DRAINING).select_related("model"))
    processes = [process for replica in draining if (process := _get_process(replica)) is not None]
    for process in processes:
        launcher.terminate(process)
    for process in processes:
        if not launcher.wait_until_gone(process, timeout_s):
            launcher.kill(process)
    for replica in draining:
        _finish_stop(replica)
    # A worker that could not load its model says so for a while before it ends.
    for replica in here.filter(state=ReplicaState.FAILED):
        process = _get_process(replica)
        _clear_failed(replica)
        if process is not None:
            launcher.wait_until_gone(process, timeout_s)


def _watch(replica: Replica) -> None:
    process = _get_process(replica)
    if process is None:
        if _seconds_in_state(replica) > START_LOST_S:
            if (unrecorded := launcher.read_process(str(replica.pk))) is not None:
                launcher.kill(unrecorded)
            services.schedule_restart(replica=replica, error="The start was interrupted.")
        return
    if not launcher.is_running(process):
        _restart_or_fail(replica, launcher.get_exit_code(process))
        return
    health = _ask(replica)
    if health is None:
        _watch_silence(replica, process)
    elif health.status == "failed":
        error = health.error or "The model could not be loaded."
        if health.unapproved_code is not None:
            approvals.record_code(model=replica.model, code=health.unapproved_code)
        services.fail(replica=replica, error=error, log_tail=launcher.read_log_tail(str(replica.pk)))
    else:
        services.record_health(replica=replica, health=health)
        if _should_unload(replica, health):
            logger.info(
                "replica %s of %s has been idle for %.0f s: unloading", replica.pk, replica.model, health.idle_s
            )
            services.begin_drain(replica=replica)


def _should_unload(replica: Replica, health: Health) -> bool:
    timeout_s = replica.model.idle_timeout_s
    if replica.state != ReplicaState.READY or timeout_s == 0 or health.idle_s is None:
        return False
    num_live = replica.model.replicas.filter(state__in=LIVE_STATES).count()
    return health.idle_s >= timeout_s and num_live > services.get_min_replicas(replica.model)


def _watch_silence(replica: Replica, process: WorkerProcess) -> None:
    limit_s = LOADING_SILENCE_S
    if replica.state == ReplicaState.READY:
        limit_s = ENGINE_SILENCE_S if replica.model.is_launched_engine else READY_SILENCE_S
    silent_s = services.record_silence(replica=replica)
    if silent_s > limit_s:
        launcher.kill(process)
        services.schedule_restart(
            replica=replica,
            error=f"The process did not answer for {silent_s:.0f} s.",
            log_tail=launcher.read_log_tail(str(replica.pk)),
        )


def _restart_or_fail(replica: Replica, exit_code: int | None) -> None:
    log_tail = launcher.read_log_tail(str(replica.pk))
    if exit_code == LOAD_FAILED_EXIT_CODE:
        if (code := find_code_line(log_tail)) is not None:
            approvals.record_code(model=replica.model, code=code)
        services.fail(replica=replica, error=log_tail.rpartition("\n")[2] or "Loading failed.", log_tail=log_tail)
        return
    if replica.model.is_launched_engine and replica.state != ReplicaState.READY and (exit_code or 0) > 0:
        services.fail(replica=replica, error=engine_processes.find_reason(str(replica.pk)), log_tail=log_tail)
        return
    how = "" if exit_code is None else f" (signal {-exit_code})" if exit_code < 0 else f" (exit code {exit_code})"
    services.schedule_restart(replica=replica, error=f"The model's process ended unexpectedly{how}.", log_tail=log_tail)


def _drain(replica: Replica) -> None:
    """Let its work end, then the process: never while a request is running, unless that takes too long."""
    process = _get_process(replica)
    if process is None or not launcher.is_running(process):
        _finish_stop(replica)
    elif replica.stop_signalled_at is not None:
        if (timezone.now() - replica.stop_signalled_at).total_seconds() > KILL_AFTER_S:
            launcher.kill(process)
    else:
        seconds = _seconds_in_state(replica)
        health = _ask(replica) if seconds > DRAIN_SETTLE_S else None
        if (health is not None and (health.is_idle or health.status != "ready")) or seconds > DRAIN_TIMEOUT_S:
            services.record_stop_signal(replica=replica)
            launcher.terminate(process)


def _clear_failed(replica: Replica) -> None:
    process = _get_process(replica)
    if process is not None:
        launcher.kill(process)
        launcher.get_exit_code(process)
        services.forget_process(replica=replica)


def _finish_stop(replica: Replica) -> None:
    if services.mark_stopped(replica=replica, log_tail=launcher.read_log_tail(str(replica.pk))):
        launcher.remove_folder(str(replica.pk))


def _end_orphans() -> None:
    """Processes whose rows are gone, with their model for one: told to finish, and forgotten once they have."""
    folders = launcher.list_folders()
    known = {str(pk) for pk in Replica.objects.exclude(state=ReplicaState.STOPPED).values_list("pk", flat=True)}
    for replica_id in set(folders) - known:
        process = launcher.read_process(replica_id)
        if process is None or not launcher.is_running(process):
            launcher.remove_folder(replica_id)
        else:
            launcher.terminate_once(replica_id, process, kill_after_s=KILL_AFTER_S)


def _get_process(replica: Replica) -> WorkerProcess | None:
    if replica.pid is None or replica.pid_started_at is None:
        return None
    return WorkerProcess(replica.pid, replica.pid_started_at)


def _ask(replica: Replica) -> Health | None:
    if not replica.port:
        return None
    if replica.model.is_launched_engine:
        return engine_processes.get_health(str(replica.pk), settings.NODE_BIND_HOST, replica.port, replica.token)
    return get_health(settings.NODE_BIND_HOST, replica.port, replica.token)


def _seconds_in_state(replica: Replica) -> float:
    return (timezone.now() - replica.state_changed_at).total_seconds()


@contextmanager
def _only_one_here() -> Iterator[bool]:
    """Whether this is the only reconciliation on this machine. The kernel lets go of the lock when a process dies."""
    with (settings.DATA_DIR / "reconcile.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
