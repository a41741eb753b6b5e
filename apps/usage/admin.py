"""The ledger in the admin: to read, filter and export. Nobody writes in it by hand."""

import csv

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from apps.usage.models import UsageRecord, UsageStatus

MAX_EXPORTED_ROWS = 200_000  # one response is made in memory: about 30 MB
CSV_FIELDS = [
    "id",
    "created_at",
    "finished_at",
    "user__username",
    "team__name",
    "api_key__name",
    "model_name",
    "revision",
    "endpoint",
    "streamed",
    "status",
    "error_code",
    "finish_reason",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "queue_s",
    "ttft_s",
    "duration_s",
    "device_s",
]


@admin.register(UsageRecord)
class UsageRecordAdmin(ModelAdmin):
    """One row per request."""

    list_display = [
        "created_at",
        "user",
        "model_name",
        "endpoint",
        "status_label",
        "prompt_tokens",
        "completion_tokens",
        "shown_ttft",
        "shown_duration",
    ]
    list_filter = ["status", "created_at", "model_name", "endpoint", "user", "team", "error_code"]
    list_filter_submit = False
    search_fields = ["id", "user__username", "model_name", "error_code"]
    list_select_related = ["user"]
    date_hierarchy = "created_at"
    actions = ["export_csv"]
    show_full_result_count = False  # counting the whole ledger for each page is not worth it
    fieldsets = [
        (None, {"fields": ["id", "status", "error_code", "finish_reason", "endpoint", "streamed"]}),
        (_("Who"), {"fields": ["user", "team", "api_key"]}),
        (_("Where"), {"fields": ["model_name", "revision", "replica_id"]}),
        (_("Tokens"), {"fields": ["prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"]}),
        (_("Time"), {"fields": ["created_at", "finished_at", "queue_s", "ttft_s", "duration_s", "device_s"]}),
    ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: UsageRecord | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: UsageRecord | None = None) -> bool:
        return False

    @action(description=_("Export the selected rows as CSV"), permissions=["view"])
    def export_csv(self, request: HttpRequest, queryset: QuerySet[UsageRecord]) -> HttpResponse | None:
        """As a file, oldest row first; a message instead when there are too many."""
        if queryset.count() > MAX_EXPORTED_ROWS:
            text = _("More than %(count)d rows: narrow the filters first.") % {"count": MAX_EXPORTED_ROWS}
            self.message_user(request, text, messages.ERROR)
            return None
        response = HttpResponse(
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="atrium-usage.csv"'},
        )
        writer = csv.writer(response)
        writer.writerow(CSV_FIELDS)
        for row in queryset.order_by("created_at").values_list(*CSV_FIELDS).iterator():
            writer.writerow([_make_harmless(value) for value in row])
        return response

    @display(
        description=_("status"),
        ordering="status",
        label={
            UsageStatus.OPEN: "info",
            UsageStatus.OK: "success",
            UsageStatus.CANCELLED: "warning",
            UsageStatus.ERROR: "danger",
            UsageStatus.LOST: "danger",
        },
    )
    def status_label(self, record: UsageRecord) -> tuple[str, str]:
        return record.status, record.get_status_display()

    @display(description=_("first token"), ordering="ttft_s")
    def shown_ttft(self, record: UsageRecord) -> str:
        return _format_seconds(record.ttft_s)

    @display(description=_("duration"), ordering="duration_s")
    def shown_duration(self, record: UsageRecord) -> str:
        return _format_seconds(record.duration_s)


def _format_seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _make_harmless(value: object) -> object:
    """A spreadsheet runs a text that begins like a formula; names are chosen by people and clients."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
