"""Responses that are kept. Who may read them is in `stored_responses.py`."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class StoredResponse(models.Model):
    """One response and what it answered.

    JSON in text fields: PostgreSQL's own JSON holds no NUL, which a model may well write.
    """

    id = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="responses")
    team = models.ForeignKey("accounts.Team", on_delete=models.CASCADE, related_name="responses")
    previous_id = models.CharField(max_length=64, blank=True)  # no foreign key: the earlier one may be deleted
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    response = models.TextField()  # the response object
    input = models.TextField()  # its own input's items, not those of earlier responses

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.id
