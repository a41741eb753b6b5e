"""Administration of the code in models' repositories: what was found, and what may run."""

from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display

from apps.accounts.models import User
from apps.registry import approvals, directory
from apps.registry.models import HostedModel, ModelCode


class ReadOnlyAdmin(ModelAdmin):
    """Rows that the control plane writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ModelCodeInline(TabularInline):
    """Code that was found in the model's repository: what is approved, and where to approve it."""

    model = ModelCode
    extra = 0
    show_change_link = True
    fields = readonly_fields = ["sha256", "commit", "found_at", "approved_at", "approved_by"]

    def has_add_permission(self, request: HttpRequest, obj: HostedModel | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: HostedModel | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: HostedModel | None = None) -> bool:
        return False


@admin.register(ModelCode)
class ModelCodeAdmin(ReadOnlyAdmin):
    """Python code of models' repositories. Which of it runs on the machines is decided by superusers alone."""

    list_display = ["model", "sha256", "commit", "found_at", "is_approved", "approved_by"]
    list_filter = ["model"]
    search_fields = ["model__name", "sha256", "commit"]
    list_select_related = ["model", "approved_by"]
    actions = ["approve", "withdraw"]
    fieldsets = [
        (None, {"fields": ["model", "source", "revision", "commit", "sha256", "found_at", "shown_files"]}),
        (_("Approval"), {"fields": ["approved_at", "approved_by", "approved_through"]}),
    ]

    def has_approve_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    @action(description=_("Approve this code"), permissions=["approve"])
    def approve(self, request: HttpRequest, queryset: QuerySet[ModelCode]) -> None:
        for row in queryset.select_related("model"):
            approvals.approve(row=row, by=cast(User, request.user), through="admin")
            self.log_change(request, row, f"approve {row.sha256}")
            text = _("The code of %(model)s may run: load the model.") % {"model": row.model}
            self.message_user(request, text, messages.SUCCESS)

    @action(description=_("Withdraw the approval"), permissions=["approve"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[ModelCode]) -> None:
        for row in queryset.select_related("model"):
            approvals.withdraw(row=row)
            self.log_change(request, row, f"withdraw {row.sha256}")
            text = _("The code of %(model)s may not run any more.") % {"model": row.model}
            self.message_user(request, text, messages.SUCCESS)
        directory.invalidate()

    @display(description=_("approved"), ordering="approved_at", boolean=True)
    def is_approved(self, row: ModelCode) -> bool:
        return row.approved_at is not None

    @display(description=_("files"))
    def shown_files(self, row: ModelCode) -> str:
        lines = ((file["sha256"], file["path"], file["num_bytes"]) for file in row.files)
        return format_html('<pre class="atrium-log">{}</pre>', format_html_join("\n", "{}  {} ({} bytes)", lines))
