"""The API's background work, run by Celery beat."""

from celery import shared_task

from apps.openai_api.background_responses import settle_lost
from apps.openai_api.conversations import sweep_conversations
from apps.openai_api.kept_events import sweep_streams
from apps.openai_api.stored_responses import sweep


@shared_task(name="openai_api.sweep_responses")
def sweep_responses() -> None:
    """End responses whose process is gone, forget those that are old enough, and events of streams that are over."""
    settle_lost()
    sweep()
    sweep_streams()
    sweep_conversations()
