"""The form of a server in the admin: secrets go in and never come out."""

from typing import Any
from urllib.parse import urlsplit

from django import forms
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextareaWidget

from apps.core.fetch import FetchError, FetchRules, check_url
from apps.mcp.models import McpServer, Transport
from apps.mcp.services import forget_moved_secrets, list_secret_names, set_secrets


class StringMapField(forms.JSONField):
    """A JSON object of texts."""

    widget = UnfoldAdminTextareaWidget
    default_error_messages = {"not_texts": _('A JSON object of texts, such as {"Authorization": "Bearer …"}.')}

    def prepare_value(self, value: Any) -> Any:
        """Nothing is shown as nothing, not as JSON's null."""
        return "" if value is None else super().prepare_value(value)

    def to_python(self, value: Any) -> Any:
        given = super().to_python(value)
        if given is None:
            return None
        if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
            raise forms.ValidationError(self.error_messages["not_texts"])
        return given


class McpServerForm(forms.ModelForm):
    """What each transport needs is demanded, what it does not know is emptied."""

    is_superuser = False  # set by the admin for each request
    headers = StringMapField(label=_("headers"), required=False)
    env = StringMapField(label=_("environment"), required=False)
    enabled_tools = forms.MultipleChoiceField(
        label=_("tools that may be called"), required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget
    )

    class Meta:
        model = McpServer
        fields = ["name", "enabled", "teams", "transport", "timeout_s", "url", "may_be_private", "command"]
        fields += ["arguments", "folder", "enabled_tools"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        server = self.instance
        for field in self.fields.values():  # those of the model begin with a capital already
            field.label = capfirst(str(field.label))
        if "enabled_tools" in self.fields:
            tools: Any = self.fields["enabled_tools"]
            tools.choices = [(tool["name"], f"{tool['name']}: {tool['description']}"[:200]) for tool in server.tools]
        for name, encrypted in (("headers", server.encrypted_headers), ("env", server.encrypted_env)):
            if name in self.fields:
                kept = ", ".join(list_secret_names(encrypted)) or "-"
                text = _("Kept: %(names)s. What you enter replaces all of it; {} removes it.")
                self.fields[name].help_text = text % {"names": kept}
        if "transport" in self.fields and not self.is_superuser:
            transport: Any = self.fields["transport"]
            transport.choices = [choice for choice in Transport.choices if choice[0] != Transport.STDIO]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        transport = given.get("transport", self.instance.transport)
        if transport == Transport.STDIO:
            self._check_program(given)
        else:
            self._check_url(given)
        return given

    def save(self, commit: bool = True) -> Any:
        server = self.instance
        before = McpServer.objects.filter(pk=server.pk).first()
        set_secrets(server, headers=self.cleaned_data.get("headers"), env=self.cleaned_data.get("env"))
        if before is not None:
            forget_moved_secrets(server, before)
        return super().save(commit)

    def _check_program(self, given: dict[str, Any]) -> None:
        if not str(given.get("command", "")).startswith("/"):
            self.add_error("command", _("The full path of a program."))
        arguments = given.get("arguments")
        if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
            self.add_error("arguments", _("A JSON list of texts."))

    def _check_url(self, given: dict[str, Any]) -> None:
        url = str(given.get("url", ""))
        try:
            # Whether the address may be used is asked when it is used.
            check_url(url, FetchRules(0, 0, private_hosts=frozenset({urlsplit(url).hostname or ""})))
        except (FetchError, ValueError):
            self.add_error("url", _("A URL that begins with http:// or https:// and holds no password."))
