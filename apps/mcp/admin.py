"""Administration of servers of tools, and the record of calls. What a button does is in `services.py`."""

from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from apps.accounts.models import User
from apps.mcp import services
from apps.mcp.forms import McpServerForm
from apps.mcp.models import CallStatus, McpServer, ToolCallRecord, Transport

STATUS_LABELS = {
    CallStatus.OK: "success",
    CallStatus.TOOL_ERROR: "warning",
    CallStatus.FAILED: "danger",
    CallStatus.TIMEOUT: "danger",
    CallStatus.CANCELLED: "",
}


@admin.register(McpServer)
class McpServerAdmin(ModelAdmin):
    """Servers whose tools models may call. Programs on this machine, and private addresses, are for superusers."""

    form = McpServerForm
    list_display = ["name", "transport", "enabled", "health", "num_tools", "team_names", "checked_at"]
    list_filter = ["enabled", "transport", "teams"]
    search_fields = ["name", "url", "command"]
    autocomplete_fields = ["teams"]
    actions = ["refresh", "enable_all"]
    readonly_fields = ["checked_at", "error"]
    fieldsets = [
        (None, {"fields": ["name", "enabled", "teams", "transport", "timeout_s"]}),
        (_("Reached by HTTP"), {"fields": ["url", "may_be_private", "headers"]}),
        (_("A program on this machine"), {"fields": ["command", "arguments", "folder", "env"]}),
        (
            _("Tools"),
            {
                "description": _("Save the server, ask it for its tools, then say which of them may be called."),
                "fields": ["enabled_tools", "checked_at", "error"],
            },
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[McpServer]:
        return super().get_queryset(request).prefetch_related("teams")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        form.is_superuser = cast(User, request.user).is_superuser
        return form

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return fields if cast(User, request.user).is_superuser else [*fields, "may_be_private"]

    def has_change_permission(self, request: HttpRequest, obj: McpServer | None = None) -> bool:
        """Where a private address was allowed, it is the server there that was meant, and no other."""
        is_special = obj is not None and (obj.transport == Transport.STDIO or obj.may_be_private)
        allowed = super().has_change_permission(request, obj)
        return allowed and (cast(User, request.user).is_superuser or not is_special)

    @action(description=_("Ask for its tools"), permissions=["change"])
    def refresh(self, request: HttpRequest, queryset: QuerySet[McpServer]) -> None:
        """Also says whether it can be reached at all."""
        for server in queryset:
            if not self.has_change_permission(request, server):
                continue
            if services.refresh_tools(server=server):
                text = _("%(server)s has %(count)d tools.") % {"server": server, "count": len(server.tools)}
                self.message_user(request, text, messages.SUCCESS)
            else:
                self.message_user(request, f"{server}: {server.error}", messages.ERROR)

    @action(description=_("Allow all its tools"), permissions=["change"])
    def enable_all(self, request: HttpRequest, queryset: QuerySet[McpServer]) -> None:
        for server in queryset:
            if self.has_change_permission(request, server):
                services.enable_all_tools(server=server)
                self.log_change(request, server, "enable all tools")

    @display(description=_("state"), label={True: "success", False: "danger", None: ""})
    def health(self, server: McpServer) -> tuple[bool | None, Any]:
        if server.checked_at is None:
            return None, _("not asked yet")
        return not server.error, _("cannot be reached") if server.error else _("reached")

    @display(description=_("tools"))
    def num_tools(self, server: McpServer) -> str:
        return f"{len(server.enabled_tools)} / {len(server.tools)}"

    @display(description=_("teams"))
    def team_names(self, server: McpServer) -> Any:
        return ", ".join(team.name for team in server.teams.all()) or _("everybody")


@admin.register(ToolCallRecord)
class ToolCallRecordAdmin(ModelAdmin):
    """Who had which tool called. Nobody writes one by hand."""

    list_display = ["started_at", "server_label", "tool", "user", "team", "status_label", "duration_s", "request_id"]
    list_filter = ["status", "server", "started_at", "team"]
    list_select_related = ["user", "team"]
    search_fields = ["tool", "server_label", "user__username", "request_id"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description=_("status"), ordering="status", label=STATUS_LABELS)
    def status_label(self, record: ToolCallRecord) -> tuple[str, str]:
        return record.status, record.get_status_display()
