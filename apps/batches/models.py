"""Batches, and what has been answered of those that still run. What may be done to them is in `services.py`."""

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class BatchStatus(models.TextChoices):
    """OpenAI's words. The first four are worked on by some process; the others are final."""

    VALIDATING = "validating", _("Validating")
    IN_PROGRESS = "in_progress", _("In progress")
    FINALIZING = "finalizing", _("Finalizing")
    CANCELLING = "cancelling", _("Cancelling")
    COMPLETED = "completed", _("Completed")
    FAILED = "failed", _("Failed")
    EXPIRED = "expired", _("Expired")
    CANCELLED = "cancelled", _("Cancelled")


LIVE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)


class Batch(models.Model):
    """Many requests in one file. Files are named by their ids alone: they may be deleted before the batch's row."""

    id = models.CharField(_("batch"), max_length=64, primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="batches", verbose_name=_("user")
    )
    team = models.ForeignKey("accounts.Team", on_delete=models.CASCADE, related_name="batches", verbose_name=_("team"))
    # No foreign key: a key that was deleted must not look like none.
    key_id = models.BigIntegerField(null=True, editable=False)
    endpoint = models.CharField(_("endpoint"), max_length=50)
    status = models.CharField(
        _("status"), max_length=12, choices=BatchStatus.choices, default=BatchStatus.VALIDATING, db_index=True
    )
    input_file_id = models.CharField(_("input file"), max_length=64, db_index=True)
    output_file_id = models.CharField(_("output file"), max_length=64, blank=True)
    error_file_id = models.CharField(_("error file"), max_length=64, blank=True)
    output_expires_after_s = models.PositiveIntegerField(null=True, editable=False)
    metadata = models.TextField(default="null", editable=False)  # JSON in a text: PostgreSQL's own holds no NUL
    errors = models.TextField(_("errors"), default="[]", editable=False)  # why it failed, as OpenAI lists it
    model_name = models.CharField(_("model"), max_length=200, blank=True)  # where all lines name the same
    num_total = models.PositiveIntegerField(_("requests"), default=0)
    num_completed = models.PositiveIntegerField(_("answered"), default=0)
    num_failed = models.PositiveIntegerField(_("failed"), default=0)
    input_tokens = models.PositiveBigIntegerField(_("input tokens"), default=0)
    cached_tokens = models.PositiveBigIntegerField(_("cached tokens"), default=0)
    output_tokens = models.PositiveBigIntegerField(_("output tokens"), default=0)
    reasoning_tokens = models.PositiveBigIntegerField(_("reasoning tokens"), default=0)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"))
    in_progress_at = models.DateTimeField(_("in progress since"), null=True)
    finalizing_at = models.DateTimeField(_("finalizing since"), null=True)
    cancelling_at = models.DateTimeField(_("cancelling since"), null=True)
    ended_at = models.DateTimeField(_("ended"), null=True)
    # Who works on it, and when he last said so: a batch whose owner is gone is taken up by another.
    owner = models.CharField(max_length=80, blank=True, editable=False)
    heartbeat_at = models.DateTimeField(null=True, editable=False)
    num_crashes = models.PositiveSmallIntegerField(default=0, editable=False)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        indexes = [models.Index(fields=["team", "user", "-created_at"], name="batches_owner_created")]

    def __str__(self) -> str:
        return self.id


class FinishedLine(models.Model):
    """A line of a batch that still runs: its line of the output, until that is written."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="finished_lines")
    number = models.PositiveIntegerField()  # of the input's line, from 1
    is_ok = models.BooleanField()
    output = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["batch", "number"], name="one_answer_per_batch_line")]

    def __str__(self) -> str:
        return f"{self.batch_id}:{self.number}"
