"""Limits and prices in the admin: on pages of their own, and with the key, person, team or model that they are for."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, StackedInline
from unfold.decorators import display

from apps.accounts.admin import APIKeyAdmin, TeamAdmin, UserAdmin
from apps.quotas.models import Price, Quota
from apps.quotas.use import Use, read_uses
from apps.registry.admin import HostedModelAdmin

_LIMITS = [
    ("requests_per_minute", "tokens_per_minute", "max_concurrent"),
    ("budget_tokens", "budget_money", "budget_period"),
    ("warn_email", "warn_url"),
]


def _format(uses: list[Use]) -> SafeString:
    return format_html_join(SafeString("<br>"), "{}", ((str(use),) for use in uses)) or SafeString("-")


class _QuotaInline(StackedInline):
    """The limits of one object. One that has none gets a form for the asking."""

    model = Quota
    extra = 0
    tab = True
    readonly_fields = ["present_use"]
    autocomplete_fields = ["model"]

    @display(description=_("in use"))
    def present_use(self, quota: Quota) -> SafeString:
        return _format(read_uses([quota])[quota.pk]) if quota.pk else SafeString("-")


class KeyQuotaInline(_QuotaInline):
    fk_name = "api_key"
    fields = ["model", *_LIMITS, "present_use"]


class UserQuotaInline(_QuotaInline):
    fk_name = "user"
    fields = ["model", *_LIMITS, "present_use"]


class TeamQuotaInline(_QuotaInline):
    fk_name = "team"
    fields = [("model", "each_user"), *_LIMITS, "present_use"]


class ModelQuotaInline(_QuotaInline):
    fk_name = "model"
    autocomplete_fields = ["team", "user"]
    fields = [("team", "user", "each_user"), *_LIMITS, "present_use"]


class PriceInline(StackedInline):
    """What the model's tokens cost."""

    model = Price
    tab = True
    fields = [("prompt", "cached", "completion")]


@admin.register(Quota)
class QuotaAdmin(ModelAdmin):
    """All limits, with what is in use of them."""

    list_display = ["__str__", "each_user", "present_use", "warn_email"]
    list_filter = ["team", "model", "budget_period"]
    search_fields = ["user__username", "team__name", "api_key__name", "model__name"]
    list_select_related = ["api_key", "user", "team", "model"]
    autocomplete_fields = ["api_key", "user", "team", "model"]
    readonly_fields = ["present_use"]
    fieldsets = [
        (_("Whose"), {"fields": ["api_key", "user", "team", ("model", "each_user")]}),
        (_("Limits"), {"fields": [*_LIMITS[:2], "present_use"]}),
        (_("Warning"), {"fields": [_LIMITS[2]]}),
    ]

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """One look at the counters for the whole page."""
        page = super().get_changelist_instance(request)
        uses = read_uses(page.result_list)
        for quota in page.result_list:
            quota.uses = uses[quota.pk]
        return page

    @display(description=_("in use"))
    def present_use(self, quota: Any) -> SafeString:
        if not quota.pk:
            return SafeString("-")
        return _format(quota.uses if hasattr(quota, "uses") else read_uses([quota])[quota.pk])


def _add_inlines(owner: type[ModelAdmin], *inlines: type[StackedInline]) -> None:
    """To the page of what exists: what is only being made gets no limits yet."""
    get_inlines = owner.get_inlines

    def get_all_inlines(self: ModelAdmin, request: HttpRequest, obj: Any) -> list[Any]:
        return [*get_inlines(self, request, obj), *(inlines if obj is not None else ())]

    owner.get_inlines = get_all_inlines


# Here, not there: people, keys and models do not know that limits exist.
_add_inlines(APIKeyAdmin, KeyQuotaInline)
_add_inlines(UserAdmin, UserQuotaInline)
_add_inlines(TeamAdmin, TeamQuotaInline)
_add_inlines(HostedModelAdmin, PriceInline, ModelQuotaInline)
