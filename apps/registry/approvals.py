"""Which code of models' repositories may run, and who said so. It reads no repository: see `repository.py`.

An approval is for one SHA-256 from one source (and, of the hub, one commit). The worker compares it with what it is
about to run.
"""

import logging

import msgspec
from django.utils import timezone

from apps.accounts.models import User
from apps.registry import services
from apps.registry.models import HostedModel, ModelCode, ReplicaState
from gpu_worker.protocol import RepositoryCode

logger = logging.getLogger(__name__)


def record_code(*, model: HostedModel, code: RepositoryCode) -> ModelCode:
    """Code was found that is not approved; an administrator finds it in the admin."""
    row, _ = ModelCode.objects.get_or_create(
        model=model,
        source=model.source,
        revision=model.revision,
        commit=code.commit,
        sha256=code.sha256,
        defaults={"files": msgspec.to_builtins(code.files)},
    )
    return row


def approve(*, row: ModelCode, by: User | None, through: str) -> None:
    """From now on the model may be loaded with this code, at once although it may have failed just now.

    `by` is None for who has the machine's terminal.
    """
    row.approved_at, row.approved_by, row.approved_through = timezone.now(), by, through
    row.save(update_fields=["approved_at", "approved_by", "approved_through"])
    logger.warning("the code %s of %s was approved through %s", row.sha256, row.model, through)
    for failed in row.model.replicas.filter(state=ReplicaState.FAILED):
        services.mark_stopped(replica=failed)


def withdraw(*, row: ModelCode) -> None:
    """The code may not run any more: replicas of its model, which may be running it, are drained."""
    row.approved_at, row.approved_by, row.approved_through = None, None, ""
    row.save(update_fields=["approved_at", "approved_by", "approved_through"])
    logger.warning("the approval of the code %s of %s was withdrawn", row.sha256, row.model)
    services.drain_model(model=row.model)


def find_approved(model: HostedModel) -> ModelCode | None:
    """The code that this model may run: what was approved last for where it is loaded from now."""
    rows = model.codes.filter(source=model.source, revision=model.revision)
    return rows.exclude(approved_at=None).order_by("-approved_at").first()
