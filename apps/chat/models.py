"""Conversations and their messages. Who may read them is in `access.py`, how they change in `turns.py`."""

import uuid

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

MAX_TITLE_CHARS = 120


class Conversation(models.Model):
    """One thread of messages, private to its user. The team is who pays for the answers."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="conversations", verbose_name=_("user")
    )
    team = models.ForeignKey(
        "accounts.Team", on_delete=models.CASCADE, related_name="conversations", verbose_name=_("team")
    )
    title = models.CharField(_("title"), max_length=MAX_TITLE_CHARS, blank=True)
    model_name = models.CharField(_("model"), max_length=200)
    system_prompt = models.TextField(_("system prompt"), blank=True)
    temperature = models.FloatField(_("temperature"), null=True, blank=True)  # None: the model's own default
    max_tokens = models.PositiveIntegerField(_("max tokens"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    updated_at = models.DateTimeField(_("updated"), default=timezone.now, editable=False)

    class Meta:
        ordering = ["-updated_at"]
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        indexes = [models.Index(fields=["user", "-updated_at"], name="conversation_user_updated")]

    def __str__(self) -> str:
        return self.title or str(self.id)


class MessageRole(models.TextChoices):
    """Who speaks."""

    USER = "user", _("User")
    ASSISTANT = "assistant", _("Assistant")


class MessageStatus(models.TextChoices):
    """Life of an answer. Everything but STREAMING is final; what a person writes is COMPLETE at once."""

    STREAMING = "streaming", _("Being written")
    COMPLETE = "complete", _("Complete")
    STOPPED = "stopped", _("Stopped by the user")
    INTERRUPTED = "interrupted", _("Interrupted with the server")
    ERROR = "error", _("Failed")


class Message(models.Model):
    """What one side said. While an answer is STREAMING, its text here trails the one in memory."""

    id = models.BigAutoField(primary_key=True)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="messages", verbose_name=_("conversation")
    )
    role = models.CharField(_("role"), max_length=10, choices=MessageRole.choices)
    content = models.TextField(_("content"), blank=True)
    reasoning = models.TextField(_("reasoning"), blank=True)
    status = models.CharField(
        _("status"), max_length=12, choices=MessageStatus.choices, default=MessageStatus.COMPLETE, db_index=True
    )
    error = models.TextField(_("error"), blank=True)  # public, shown with the message
    finish_reason = models.CharField(_("finish reason"), max_length=20, blank=True)
    model_name = models.CharField(_("model"), max_length=200, blank=True)
    prompt_tokens = models.PositiveIntegerField(_("prompt tokens"), default=0)
    completion_tokens = models.PositiveIntegerField(_("completion tokens"), default=0)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    # When the process that writes the answer last said so: an answer whose process is gone is seen by its age.
    heartbeat_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["id"]
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        constraints = [
            models.UniqueConstraint(
                fields=["conversation"],
                condition=models.Q(status="streaming"),
                name="one_answer_at_a_time_per_conversation",
            )
        ]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:50]}"
