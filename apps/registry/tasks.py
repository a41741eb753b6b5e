"""The registry's Celery tasks: short calls of `services` and `reconcile`, safe to run twice."""

from celery import current_app, shared_task
from django.conf import settings

from apps.registry import reconcile, services, upstreams
from apps.registry.models import Node, Replica


@shared_task(name="registry.tick")
def tick() -> None:
    """The cluster's part, then every machine's own on that machine's queue. Sent by beat."""
    services.ensure_desired()
    for name in Node.objects.values_list("name", flat=True):
        current_app.send_task(
            "registry.reconcile", args=[name], queue=f"node.{name}", expires=2 * settings.RECONCILE_INTERVAL_S
        )


@shared_task(name="registry.reconcile")
def reconcile_node(node_name: str) -> None:
    """Look after this machine's replicas."""
    reconcile.reconcile_node(node_name)


@shared_task(name="registry.launch_replica")
def launch_replica(replica_id: str) -> None:
    """Start one replica without waiting for the next reconciliation."""
    replica = Replica.objects.select_related("model").filter(pk=replica_id).first()
    if replica is not None:
        reconcile.launch_replica(replica)


@shared_task(name="registry.check_upstreams")
def check_upstreams() -> None:
    """Ask every upstream how it is."""
    upstreams.check_all()
