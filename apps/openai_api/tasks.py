"""The API's background work, run by Celery beat."""

from celery import shared_task

from apps.openai_api.stored_responses import sweep


@shared_task(name="openai_api.sweep_responses")
def sweep_responses() -> None:
    """Forget responses that are old enough."""
    sweep()
