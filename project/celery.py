"""The Celery application: launches, reconciliation and clean-up. Never a token of a live stream."""

import os
from typing import Any

import click
from celery import Celery, bootsteps
from celery.beat import EmbeddedService
from celery.signals import worker_ready

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("atrium")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


class BeatThread(bootsteps.StartStopStep):
    """`celery worker --beat-thread`: the clock inside the worker, for one machine.

    Celery's own --beat forks a process, which a killed worker would leave behind.
    """

    def __init__(self, worker: Any, beat_thread: bool = False, **options: Any) -> None:
        super().__init__(worker, **options)
        self.enabled = beat_thread
        self._service: Any = None

    def include_if(self, worker: Any) -> bool:
        """Only where the flag is given."""
        return self.enabled

    def start(self, worker: Any) -> None:
        """Begin to tick."""
        self._service = EmbeddedService(worker.app, thread=True, scheduler_cls=worker.app.conf.beat_scheduler)
        self._service.start()

    def stop(self, worker: Any) -> None:
        """Stop ticking."""
        if self._service is not None:
            self._service.stop()


class Batches(bootsteps.StartStopStep):
    """Batches run in a thread of the worker, which a worker that stops lets go of."""

    def stop(self, worker: Any) -> None:
        """Another worker, or the next one, goes on with them."""
        from apps.batches.runner import runner

        runner.stop()


app.steps["worker"].add(BeatThread)
app.steps["worker"].add(Batches)
app.user_options["worker"].add(
    click.Option(["--beat-thread"], is_flag=True, help="Run beat in a thread of this worker (one machine only).")
)


@worker_ready.connect
def register_this_node(**kwargs: Any) -> None:
    """A machine joins by starting its Celery worker."""
    import platform

    from django.conf import settings

    from apps.registry.services import register_node

    info = {"hostname": platform.node(), "num_cpus": os.cpu_count()}
    register_node(name=settings.NODE_NAME, address=settings.NODE_ADDRESS, info=info)
