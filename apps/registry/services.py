"""Every write to models, nodes and replicas. Starts no process: that is `reconcile.py`, on the replica's machine.

All functions block. Each may run anywhere and several times at once: what must happen once is a compare-and-swap.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone
from kombu.exceptions import OperationalError

from apps.core.errors import ModelNotFound, Unavailable
from apps.registry.health import Health
from apps.registry.models import HostedModel, Node, Replica, ReplicaState
from apps.registry.placement import NODE_LOST_S, NodeView, choose_node
from apps.registry.states import LIVE_STATES, transition

logger = logging.getLogger(__name__)

FAILED_REST_S = 10.0  # a model that just failed to load is not tried again for so long, however often it is asked for
FAILED_RETRY_S = 300.0  # ... and so long, while it is only `min_replicas` that asks
STOPPED_KEPT_DAYS = 7
MAX_RESTARTS = 5  # in a row; one that stayed ready for CRASH_WINDOW_S begins a new row
CRASH_WINDOW_S = 300.0
MAX_BACKOFF_S = 60.0


def register_node(*, name: str, address: str, info: dict[str, Any]) -> Node:
    """A Celery worker of this machine has started."""
    node, _ = Node.objects.update_or_create(
        name=name, defaults={"address": address, "info": info, "last_seen_at": timezone.now()}
    )
    return node


def mark_node_seen(*, name: str) -> None:
    """The machine's Celery worker is alive."""
    Node.objects.filter(name=name).update(last_seen_at=timezone.now())


def get_min_replicas(model: HostedModel) -> int:
    """How many are kept up although nobody asks."""
    if model.is_upstream:
        return 0
    return max(model.min_replicas, 1 if model.name in settings.PRELOAD_MODELS else 0)


def request_replica(*, model_id: int) -> None:
    """Have a replica started unless one is serving or on its way, or has only just failed.

    Raises ModelNotFound when the model is gone or disabled, Unavailable when no machine is there to run it.
    """
    with transaction.atomic():
        # The row is the lock: two web processes that see no replica must not start two.
        model = HostedModel.objects.select_for_update().filter(pk=model_id, enabled=True).first()
        if model is None:
            raise ModelNotFound("The model does not exist.", param="model")
        if model.is_upstream:
            return  # it runs elsewhere
        just_failed = Q(state=ReplicaState.FAILED, state_changed_at__gt=_ago(FAILED_REST_S))
        if not model.replicas.filter(Q(state__in=LIVE_STATES) | just_failed).exists():
            _add_replica(model)


def ensure_desired() -> None:
    """Bring the number of every model's replicas to what is wanted. The cluster's part of reconciliation."""
    _fail_replicas_of_lost_nodes()
    for model in HostedModel.objects.all():
        _ensure_model(model)
    cutoff = timezone.now() - timedelta(days=STOPPED_KEPT_DAYS)
    Replica.objects.filter(state=ReplicaState.STOPPED, state_changed_at__lt=cutoff).delete()


def begin_drain(*, replica: Replica) -> bool:
    """No new requests for it; its machine stops it once its work is done. False when it was moved meanwhile."""
    if replica.state == ReplicaState.REQUESTED:
        return transition(replica, ReplicaState.STOPPED)
    return transition(replica, ReplicaState.DRAINING, stop_signalled_at=None)


def drain_model(*, model: HostedModel) -> int:
    """Unload every replica of it. Returns how many are on their way out."""
    return sum(begin_drain(replica=replica) for replica in model.replicas.filter(state__in=LIVE_STATES))


def mark_starting(*, replica: Replica, host: str, port: int, token: str) -> bool:
    """This caller is the one to start the process. False when another was first."""
    return transition(
        replica,
        ReplicaState.STARTING,
        host=host,
        port=port,
        token=token,
        pid=None,
        pid_started_at=None,
        progress=0.0,
        stage="starting",
        ready_at=None,
        unhealthy_since=None,
        restart_after=None,
    )


def record_process(*, replica: Replica, pid: int, started_at: float) -> None:
    """The process exists now."""
    _update(replica, pid=pid, pid_started_at=started_at)


def record_health(*, replica: Replica, health: Health) -> None:
    """What the process says of itself. Writes only what has changed."""
    if health.status == "ready" and replica.state in (ReplicaState.STARTING, ReplicaState.LOADING):
        transition(
            replica,
            ReplicaState.READY,
            progress=1.0,
            stage="",
            info=health.info or {},
            ready_at=timezone.now(),
            unhealthy_since=None,
            last_error="",
        )
    elif health.status == "loading" and replica.state == ReplicaState.STARTING:
        transition(replica, ReplicaState.LOADING, progress=health.progress, stage=health.stage, unhealthy_since=None)
    else:
        _update(replica, unhealthy_since=None)
        if health.status == "loading":
            _update(replica, progress=health.progress, stage=health.stage)


def record_silence(*, replica: Replica) -> float:
    """The process did not answer. Returns for how many seconds it has been silent."""
    now = timezone.now()
    since = replica.unhealthy_since or now
    _update(replica, unhealthy_since=since)
    return (now - since).total_seconds()


def fail(*, replica: Replica, error: str, log_tail: str = "") -> bool:
    """It cannot serve, and trying again would not help. `error` is shown to clients, `log_tail` to administrators."""
    logger.error("replica %s of %s failed: %s", replica.pk, replica.model_id, error)
    return transition(replica, ReplicaState.FAILED, last_error=error, log_tail=log_tail, stage="")


def schedule_restart(*, replica: Replica, error: str, log_tail: str = "") -> bool:
    """Its process is gone: again after 1, 2, 4 ... seconds; too often in a row is a failure."""
    now = timezone.now()
    was_stable = replica.ready_at is not None and (now - replica.ready_at).total_seconds() > CRASH_WINDOW_S
    num_restarts = 1 if was_stable else replica.num_restarts + 1
    if num_restarts > MAX_RESTARTS:
        return fail(
            replica=replica, error=f"{error} It was restarted {MAX_RESTARTS} times in a row.", log_tail=log_tail
        )
    delay_s = min(2.0 ** (num_restarts - 1), MAX_BACKOFF_S)
    logger.warning("replica %s: %s Starting it again in %g s.", replica.pk, error, delay_s)
    return transition(
        replica,
        ReplicaState.REQUESTED,
        pid=None,
        pid_started_at=None,
        port=None,
        num_restarts=num_restarts,
        restart_after=now + timedelta(seconds=delay_s),
        last_error=error,
        log_tail=log_tail,
    )


def record_stop_signal(*, replica: Replica) -> None:
    """The process has been told to end."""
    _update(replica, stop_signalled_at=timezone.now())


def mark_stopped(*, replica: Replica, log_tail: str = "") -> bool:
    """Its process is gone, as it should be."""
    return transition(replica, ReplicaState.STOPPED, pid=None, pid_started_at=None, port=None, log_tail=log_tail)


def forget_process(*, replica: Replica) -> None:
    """A failed replica's process is gone too."""
    _update(replica, pid=None, pid_started_at=None)


def _ensure_model(model: HostedModel) -> None:
    live = list(model.replicas.filter(state__in=LIVE_STATES).order_by("created_at"))
    wanted = get_min_replicas(model) if model.enabled else 0
    allowed = max(model.max_replicas, wanted) if model.enabled and not model.is_upstream else 0
    for replica in live[allowed:]:
        begin_drain(replica=replica)
    num_failed = model.replicas.filter(state=ReplicaState.FAILED, state_changed_at__gt=_ago(FAILED_RETRY_S)).count()
    if len(live) + num_failed < wanted:
        try:
            _add_replicas_up_to(model, wanted - num_failed)
        except Unavailable as error:
            logger.warning("%s: %s", model.name, error.message)


def _add_replicas_up_to(model: HostedModel, wanted: int) -> None:
    with transaction.atomic():
        locked = HostedModel.objects.select_for_update().get(pk=model.pk)
        for _ in range(wanted - locked.replicas.filter(state__in=LIVE_STATES).count()):
            _add_replica(locked)


def _add_replica(model: HostedModel) -> None:
    """Inside a transaction that holds the model's row."""
    node = choose_node(_view_nodes(model))
    if node is None:
        raise Unavailable("No machine is available to load the model.", code="no_machine", retry_after_s=10)
    for failed in model.replicas.filter(state=ReplicaState.FAILED, pid=None):
        transition(failed, ReplicaState.STOPPED)  # its reason was told; the new attempt has its own
    replica = Replica.objects.create(model=model, node_id=node.id)
    transaction.on_commit(lambda: _send_launch(str(replica.pk), node.name))


def _send_launch(replica_id: str, node_name: str) -> None:
    try:  # by name: `tasks` imports this module
        current_app.send_task("registry.launch_replica", args=[replica_id], queue=f"node.{node_name}")
    except OperationalError:
        logger.exception("the broker does not answer: the machine's next reconciliation starts the replica")


def _view_nodes(model: HostedModel) -> list[NodeView]:
    now = timezone.now()
    occupied = Q(replicas__state__in=[*LIVE_STATES, ReplicaState.DRAINING])
    nodes = Node.objects.annotate(
        num_replicas=Count("replicas", filter=occupied),
        num_of_model=Count("replicas", filter=occupied & Q(replicas__model=model)),
    )
    return [
        NodeView(
            id=node.pk,
            name=node.name,
            last_seen_age_s=(now - node.last_seen_at).total_seconds() if node.last_seen_at else None,
            num_replicas=node.num_replicas,
            num_replicas_of_model=node.num_of_model,
        )
        for node in nodes
    ]


def _fail_replicas_of_lost_nodes() -> None:
    lost = Q(node__last_seen_at__lt=_ago(NODE_LOST_S)) | Q(node__last_seen_at=None)
    for replica in Replica.objects.filter(lost, state__in=LIVE_STATES).select_related("node"):
        fail(replica=replica, error=f"The machine {replica.node.name} does not answer.")
    for replica in Replica.objects.filter(lost, state=ReplicaState.DRAINING):
        transition(replica, ReplicaState.STOPPED)


def _update(replica: Replica, **fields: Any) -> None:
    changed = {name: value for name, value in fields.items() if getattr(replica, name) != value}
    if changed:
        # Guarded by the state, so that what is known of one run is never written onto the next.
        Replica.objects.filter(pk=replica.pk, state=replica.state).update(**changed)
        for name, value in changed.items():
            setattr(replica, name, value)


def _ago(seconds: float) -> datetime:
    return timezone.now() - timedelta(seconds=seconds)
