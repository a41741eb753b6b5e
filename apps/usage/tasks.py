"""The ledger's background work, run by Celery beat."""

from celery import shared_task

from apps.usage.services import sweep


@shared_task(name="usage.sweep")
def sweep_usage() -> None:
    """Settle rows whose web process is gone."""
    sweep()
