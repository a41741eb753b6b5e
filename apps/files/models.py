"""Files that people sent and that batches made: their rows. The content is in the storage, see `services.py`."""

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Purpose(models.TextChoices):
    """OpenAI's words, those that this server has a use for."""

    BATCH = "batch", _("Batch input")
    BATCH_OUTPUT = "batch_output", _("Batch output")
    USER_DATA = "user_data", _("User data")


class StoredFile(models.Model):
    """One file. It belongs to a person in a team."""

    id = models.CharField(_("file"), max_length=64, primary_key=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="files", verbose_name=_("user")
    )
    team = models.ForeignKey("accounts.Team", on_delete=models.CASCADE, related_name="files", verbose_name=_("team"))
    filename = models.CharField(_("name"), max_length=255)
    purpose = models.CharField(_("purpose"), max_length=20, choices=Purpose.choices)
    num_bytes = models.PositiveBigIntegerField(_("bytes"))
    storage_name = models.CharField(max_length=255, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, db_index=True)
    is_held = models.BooleanField(_("in use"), default=False)  # by a batch: it is not deleted, and does not expire

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = _("file")
        verbose_name_plural = _("files")
        indexes = [models.Index(fields=["team", "user", "-created_at"], name="files_owner_created")]

    def __str__(self) -> str:
        return self.filename
