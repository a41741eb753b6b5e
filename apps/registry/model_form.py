"""The admin's form of a model: an upstream's secret goes in and never comes out."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminPasswordWidget

from apps.registry import upstreams
from apps.registry.models import HostedModel


class HostedModelForm(forms.ModelForm):
    """All fields, and one to enter a secret."""

    new_secret = forms.CharField(
        label=_("secret"),
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text=_("Sent to the upstream as a bearer token. It is kept encrypted and never shown; empty: unchanged."),
    )

    class Meta:
        model = HostedModel
        exclude: list[str] = []

    def save(self, commit: bool = True) -> Any:
        """Another address gets no secret that was entered for the one before."""
        if self.cleaned_data["new_secret"]:
            upstreams.set_secret(self.instance, self.cleaned_data["new_secret"])
        elif "upstream_url" in self.changed_data or not self.instance.is_upstream:
            upstreams.set_secret(self.instance, "")
        return super().save(commit)
