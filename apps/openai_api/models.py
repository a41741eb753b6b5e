"""Responses that are kept. Who may read them is in `stored_responses.py`."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class ResponseStatus(models.TextChoices):
    """OpenAI's words. QUEUED and IN_PROGRESS: a background response that somebody writes; all others are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StoredResponse(models.Model):
    """One response and what it answered.

    JSON in text fields: PostgreSQL's own JSON holds no NUL, which a model may well write.
    """

    id = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="responses")
    team = models.ForeignKey("accounts.Team", on_delete=models.CASCADE, related_name="responses")
    previous_id = models.CharField(max_length=64, blank=True)  # no foreign key: the earlier one may be deleted
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    status = models.CharField(max_length=12, choices=ResponseStatus.choices, default=ResponseStatus.COMPLETED)
    # When the process that writes a background response last said so: one whose process is gone is seen by its age.
    heartbeat_at = models.DateTimeField(default=timezone.now, editable=False)
    response = models.TextField()  # the response object
    input = models.TextField()  # its own input's items, not those of earlier responses

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["heartbeat_at"],
                condition=models.Q(status__in=("queued", "in_progress")),
                name="response_running_heartbeat",
            )
        ]

    def __str__(self) -> str:
        return self.id


class EventStream(models.Model):
    """A stream whose events can be read again for a while: a response in the background, or a chat completion."""

    id = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="event_streams")
    team = models.ForeignKey("accounts.Team", on_delete=models.CASCADE, related_name="event_streams")
    heartbeat_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)  # by its process
    read_at = models.DateTimeField(default=timezone.now, editable=False)  # by a reader in another process
    ended_at = models.DateTimeField(null=True, editable=False)

    def __str__(self) -> str:
        return self.id


class EventSegment(models.Model):
    """Events of a stream that were written together: numbers `first` to `end` - 1, compressed."""

    stream = models.ForeignKey(EventStream, on_delete=models.CASCADE, related_name="segments")
    first = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ["first"]
        constraints = [models.UniqueConstraint(fields=["stream", "first"], name="event_segment_place")]

    def __str__(self) -> str:
        return f"{self.stream_id}:{self.first}"


class Conversation(models.Model):
    """Items that responses go on from and add to. Its owner alone deletes it, or its age."""

    id = models.CharField(max_length=64, primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_conversations")
    team = models.ForeignKey("accounts.Team", on_delete=models.CASCADE, related_name="api_conversations")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    used_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    metadata = models.TextField(default="{}")  # JSON

    def __str__(self) -> str:
        return self.id


class ConversationItem(models.Model):
    """One item of a conversation. The order of the keys is the order of the items."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="items")
    item_id = models.CharField(max_length=128)
    item = models.TextField()  # JSON

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["conversation", "item_id"], name="conversation_item_id")]

    def __str__(self) -> str:
        return self.item_id
