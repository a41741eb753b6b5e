"""The form behind a new API key."""

from datetime import timedelta
from typing import Any, cast

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from apps.accounts.models import APIKey, Team, User

EXPIRIES = [("", _("Never")), ("7", _("7 days")), ("30", _("30 days")), ("90", _("90 days")), ("365", _("1 year"))]


def _read_days(days: str) -> timedelta:
    return timedelta(days=int(days))


class KeyForm(forms.Form):
    """Name, expiry and, for people in several teams, whose key it is."""

    name = forms.CharField(label=_("Name"), max_length=APIKey._meta.get_field("name").max_length)
    expires_in = forms.TypedChoiceField(
        label=_("Expires"), choices=EXPIRIES, coerce=_read_days, empty_value=None, required=False
    )
    team = forms.ModelChoiceField(label=_("Team"), queryset=Team.objects.none(), empty_label=None)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        teams = user.teams.order_by("memberships__pk")
        team = cast(forms.ModelChoiceField, self.fields["team"])
        team.queryset = teams
        team.initial = teams.first()

    def clean(self) -> dict[str, object]:
        """Turns the choice of a duration into the moment `expires_at`."""
        data = super().clean() or {}
        lifetime = data.get("expires_in")
        data["expires_at"] = timezone.now() + lifetime if lifetime else None
        return data
