"""Administration of people, teams and keys. A key's secret passes through here once, and is never stored or logged."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Count, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from apps.accounts.caller_cache import caller_cache
from apps.accounts.keys import create_key, revoke_key
from apps.accounts.models import APIKey, Membership, Team, User

admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Django's permission groups, for staff who are not superusers; who is in one must not widen it."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return request.user.is_superuser


class MembershipInline(TabularInline):
    """Who is in which team; shown with the user and with the team."""

    model = Membership
    extra = 0
    autocomplete_fields = ["user", "team"]
    tab = True


class _ForgetsCallers(ModelAdmin):
    """Keys stop or start to work at once, in this process, when people or memberships change."""

    def save_related(self, request: HttpRequest, form: ModelForm, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        transaction.on_commit(caller_cache.clear)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        transaction.on_commit(caller_cache.clear)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        super().delete_queryset(request, queryset)
        transaction.on_commit(caller_cache.clear)


def _may_touch(request: HttpRequest, user: User | None) -> bool:
    return request.user.is_superuser or user is None or not user.is_superuser


@admin.register(User)
class UserAdmin(DjangoUserAdmin, _ForgetsCallers):
    """People. One who leaves is better made inactive than deleted: the ledger then keeps the name."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = [MembershipInline]
    list_display = ["username", "full_name", "email", "team_names", "is_active", "is_staff", "last_login"]
    list_filter = ["is_active", "is_staff", "is_superuser", "teams"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("teams")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """A superuser is changed, also by a new password, by superusers alone."""
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Rights are given by superusers alone: nobody can promote themselves."""
        rights = [] if request.user.is_superuser else ["is_staff", "is_superuser", "groups", "user_permissions"]
        return [*super().get_readonly_fields(request, obj), *rights]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        if not request.user.is_superuser:
            actions.pop("delete_selected", None)  # it asks once for all of them, not for each
        return actions

    def get_inlines(self, request: HttpRequest, obj: User | None) -> list[type]:
        return self.inlines if obj else []  # a new person gets a name and a password first

    @display(description=_("name"))
    def full_name(self, user: User) -> str:
        return user.get_full_name()

    @display(description=_("teams"))
    def team_names(self, user: User) -> str:
        return ", ".join(team.name for team in user.teams.all())


@admin.register(Team)
class TeamAdmin(_ForgetsCallers):
    """Teams and their members."""

    inlines = [MembershipInline]
    list_display = ["name", "slug", "num_members", "created_at"]
    search_fields = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        return super().get_queryset(request).annotate(num_members=Count("memberships"))

    @display(description=_("members"), ordering="num_members")
    def num_members(self, team: Any) -> int:
        return team.num_members


class NewKeyForm(forms.ModelForm):
    """A key belongs to a person as a member of a team."""

    class Meta:
        model = APIKey
        fields = ["name", "user", "team", "expires_at"]

    made_by_superuser = False

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        user, team = data.get("user"), data.get("team")
        if user and user.is_superuser and not self.made_by_superuser:
            self.add_error("user", _("Only a superuser can make a superuser's key."))
        if user and team and not Membership.objects.filter(user=user, team=team).exists():
            self.add_error("team", _("%(user)s is not a member of this team.") % {"user": user})
        return data


@admin.register(APIKey)
class APIKeyAdmin(ModelAdmin):
    """Keys of everybody. They can be made, renamed and revoked; one that has ended can be deleted."""

    list_display = ["name", "shown_prefix", "user", "team", "state", "created_at", "last_used_at", "expires_at"]
    list_filter = ["team", "created_at", "last_used_at", "revoked_at"]
    search_fields = ["name", "prefix", "user__username", "team__name"]
    list_select_related = ["user", "team"]
    autocomplete_fields = ["user", "team"]
    actions = ["revoke"]

    def get_fields(self, request: HttpRequest, obj: APIKey | None = None) -> list[str]:
        if obj is None:
            return list(NewKeyForm.Meta.fields)
        return ["name", "shown_prefix", "user", "team", "created_at", "expires_at", "last_used_at", "revoked_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: APIKey | None = None) -> list[str]:
        return [name for name in self.get_fields(request, obj) if name != "name"] if obj else []

    def get_form(self, request: HttpRequest, obj: APIKey | None = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **({} if obj else {"form": NewKeyForm}), **kwargs)
        if obj is None:
            form.made_by_superuser = request.user.is_superuser  # a class of this request alone
        return form

    def save_model(self, request: HttpRequest, obj: APIKey, form: ModelForm, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        made = create_key(team=obj.team, user=obj.user, name=obj.name, expires_at=obj.expires_at)
        obj.pk, obj.prefix, obj.key_hash = made.key.pk, made.key.prefix, made.key.key_hash
        request.new_secret = made.secret  # type: ignore[attr-defined]  # for response_add, of the same request

    def response_add(self, request: HttpRequest, obj: APIKey, post_url_continue: str | None = None) -> HttpResponse:
        """Shows the secret in this response alone: a message would carry it through a cookie."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("API key created"),
            "opts": self.opts,
            "key": obj,
            "secret": request.new_secret,  # type: ignore[attr-defined]
        }
        return render(request, "admin/accounts/apikey/created.html", context)

    def has_delete_permission(self, request: HttpRequest, obj: APIKey | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or not obj.is_active)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    @action(description=_("Revoke the selected keys"), permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[APIKey]) -> None:
        keys = list(queryset.filter(revoked_at=None))
        for key in keys:
            revoke_key(key)
            self.log_change(request, key, "revoked")
        text = ngettext("%(count)d key was revoked.", "%(count)d keys were revoked.", len(keys))
        self.message_user(request, text % {"count": len(keys)}, messages.SUCCESS)

    @display(description=_("key"), ordering="prefix")
    def shown_prefix(self, key: APIKey) -> str:
        return f"{key.prefix}…"

    @display(description=_("state"), label={"active": "success", "expired": "warning", "revoked": "danger"})
    def state(self, key: APIKey) -> tuple[str, Any]:
        if key.revoked_at is not None:
            return "revoked", _("revoked")
        return ("active", _("active")) if key.is_active else ("expired", _("expired"))
