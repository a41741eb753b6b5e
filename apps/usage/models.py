"""The ledger: exactly one row for each request, opened before its first byte and settled once."""

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class UsageStatus(models.TextChoices):
    """How a request ended. Everything but OPEN is final."""

    OPEN = "open", _("Open")
    OK = "ok", _("Completed")
    CANCELLED = "cancelled", _("Cancelled by the client")
    ERROR = "error", _("Failed")
    LOST = "lost", _("Lost with its server")


class UsageRecord(models.Model):
    """One request. Counts are the engine's own; the names are kept so that a row outlives what it names."""

    id = models.CharField(_("request"), max_length=64, primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="usage", verbose_name=_("user")
    )
    team = models.ForeignKey(
        "accounts.Team", on_delete=models.SET_NULL, null=True, related_name="usage", verbose_name=_("team")
    )
    api_key = models.ForeignKey(
        "accounts.APIKey", on_delete=models.SET_NULL, null=True, related_name="usage", verbose_name=_("API key")
    )
    model_name = models.CharField(_("model"), max_length=200)
    revision = models.CharField(_("revision"), max_length=100, blank=True)
    replica_id = models.UUIDField(_("replica"), null=True)
    endpoint = models.CharField(_("endpoint"), max_length=50)
    streamed = models.BooleanField(_("streamed"), default=False)
    status = models.CharField(_("status"), max_length=10, choices=UsageStatus.choices, default=UsageStatus.OPEN)
    error_code = models.CharField(_("error"), max_length=50, blank=True)
    finish_reason = models.CharField(_("finish reason"), max_length=20, blank=True)
    prompt_tokens = models.PositiveIntegerField(_("prompt tokens"), default=0)
    cached_tokens = models.PositiveIntegerField(_("cached tokens"), default=0)
    completion_tokens = models.PositiveIntegerField(_("completion tokens"), default=0)
    reasoning_tokens = models.PositiveIntegerField(_("reasoning tokens"), default=0)
    queue_s = models.FloatField(_("queued (s)"), default=0.0)
    ttft_s = models.FloatField(_("time to first token (s)"), null=True)
    duration_s = models.FloatField(_("duration (s)"), null=True)
    device_s = models.FloatField(_("device time (s)"), default=0.0)
    created_at = models.DateTimeField(_("started"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True)
    # The web process that holds the request, and when it last said so: a row whose owner is gone is settled
    # by the sweeper from the counts it last wrote.
    owner = models.CharField(max_length=64, blank=True, editable=False)
    heartbeat_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        indexes = [
            models.Index(fields=["-created_at"], name="usage_created"),
            models.Index(fields=["team", "-created_at"], name="usage_team_created"),
            models.Index(fields=["user", "-created_at"], name="usage_user_created"),
            models.Index(fields=["heartbeat_at"], condition=models.Q(status="open"), name="usage_open_heartbeat"),
        ]

    def __str__(self) -> str:
        return self.id
