"""Stored files in the admin: to look at, and to delete. Nobody writes one by hand, and contents are not shown."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import display

from apps.files.models import StoredFile
from apps.files.services import delete_file


@admin.register(StoredFile)
class StoredFileAdmin(ModelAdmin):
    """What people sent and what batches made."""

    list_display = ["filename", "purpose", "user", "team", "size", "created_at", "expires_at", "is_held"]
    list_filter = ["purpose", "is_held", "created_at", "team"]
    search_fields = ["id", "filename", "user__username", "team__name"]
    list_select_related = ["user", "team"]
    fields = ["id", "filename", "purpose", "user", "team", "size", "created_at", "expires_at", "is_held"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[StoredFile]:
        """Without those in use where rows are to be deleted."""
        files = super().get_queryset(request)
        return files.filter(is_held=False) if request.POST.get("action") == "delete_selected" else files

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: StoredFile | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: StoredFile | None = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and obj.is_held)

    def delete_model(self, request: HttpRequest, obj: StoredFile) -> None:
        delete_file(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[StoredFile]) -> None:
        for file in queryset:
            delete_file(file)

    @display(description=_("size"), ordering="num_bytes")
    def size(self, file: StoredFile) -> str:
        return filesizeformat(file.num_bytes)
