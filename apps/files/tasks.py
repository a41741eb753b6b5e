"""The files' background work, run by Celery beat."""

from celery import shared_task

from apps.files.services import sweep


@shared_task(name="files.sweep")
def sweep_files() -> None:
    """Delete what has expired."""
    sweep()
