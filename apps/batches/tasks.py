"""The batches' Celery task, sent by beat and with every new batch."""

from celery import shared_task

from apps.batches.runner import runner


@shared_task(name="batches.start_due")
def start_due() -> None:
    """Take up what nobody works on. Returns at once: the work goes on in the runner's thread."""
    runner.start_due()
