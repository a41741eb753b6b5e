"""Batches in the admin: how far they are, and a button to end them. Their lines and files are their owners' own."""

import msgspec
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.decorators import action, display

from apps.batches.models import LIVE, Batch, BatchStatus
from apps.batches.services import cancel_batch
from apps.core.errors import Conflict
from apps.registry.code_admin import ReadOnlyAdmin


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    """What people have answered in the background."""

    list_display = ["id", "status_label", "progress", "num_failed", "user", "team", "model_name", "created_at"]
    list_filter = ["status", "created_at", "endpoint", "team", "user"]
    search_fields = ["id", "user__username", "team__name", "model_name", "input_file_id"]
    list_select_related = ["user", "team"]
    actions = ["cancel"]
    fieldsets = [
        (None, {"fields": ["id", "status", "progress", "num_failed", "endpoint", "model_name", "shown_errors"]}),
        (_("Who"), {"fields": ["user", "team"]}),
        (_("Files"), {"fields": ["input_file_id", "output_file_id", "error_file_id"]}),
        (_("Tokens"), {"fields": ["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"]}),
        (
            _("Time"),
            {"fields": ["created_at", "in_progress_at", "finalizing_at", "cancelling_at", "ended_at", "expires_at"]},
        ),
    ]

    def has_delete_permission(self, request: HttpRequest, obj: Batch | None = None) -> bool:
        """One that has ended. Its files stay, until they expire."""
        return super().has_delete_permission(request, obj) and (obj is None or obj.status not in LIVE)

    def get_actions(self, request: HttpRequest) -> dict[str, object]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Who may change batches, were there something to change by hand."""
        return request.user.has_perm("batches.change_batch")

    @action(description=_("Cancel, keeping what was answered"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Batch]) -> None:
        """Those that have ended stay as they are."""
        num_cancelled = 0
        for batch in queryset.filter(status__in=LIVE):
            try:
                cancel_batch(batch)
            except Conflict as error:
                self.message_user(request, f"{batch}: {error.message}", messages.WARNING)
            else:
                num_cancelled += 1
                self.log_change(request, batch, "cancel")
        text = ngettext("%(count)d batch is being cancelled.", "%(count)d batches are being cancelled.", num_cancelled)
        self.message_user(request, text % {"count": num_cancelled}, messages.SUCCESS)

    @display(
        description=_("status"),
        ordering="status",
        label={
            BatchStatus.VALIDATING: "info",
            BatchStatus.IN_PROGRESS: "info",
            BatchStatus.FINALIZING: "info",
            BatchStatus.CANCELLING: "warning",
            BatchStatus.COMPLETED: "success",
            BatchStatus.FAILED: "danger",
            BatchStatus.EXPIRED: "danger",
            BatchStatus.CANCELLED: "warning",
        },
    )
    def status_label(self, batch: Batch) -> tuple[str, str]:
        return batch.status, batch.get_status_display()

    @display(description=_("progress"))
    def progress(self, batch: Batch) -> str:
        """Lines that have ended, of all."""
        num_ended = batch.num_completed + batch.num_failed
        bar = '<progress max="{}" value="{}"></progress> {} / {}'
        return format_html(bar, max(1, batch.num_total), num_ended, num_ended, batch.num_total)

    @display(description=_("errors"))
    def shown_errors(self, batch: Batch) -> str:
        problems = msgspec.json.decode(batch.errors)
        lines = [(problem["line"] or "", problem["code"], problem["message"]) for problem in problems]
        return format_html_join("", "<p>{} {}: {}</p>", lines) or "-"
