"""Servers of tools, and the record of every call of one. Who may use a server is in `access.py`."""

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

validate_name = RegexValidator(
    r"\A[A-Za-z][A-Za-z0-9_-]*\Z", _("A letter, then letters, digits, hyphens and underscores.")
)


class Transport(models.TextChoices):
    """How a server is spoken to."""

    HTTP = "http", _("Streamable HTTP")
    SSE = "sse", _("Server-sent events (older servers)")
    STDIO = "stdio", _("A program on this machine")


class McpServer(models.Model):
    """A server of tools that models may call. Its secrets are encrypted (`apps.core.secrets`)."""

    name = models.CharField(_("name"), max_length=48, unique=True, validators=[validate_name])
    enabled = models.BooleanField(_("enabled"), default=True)
    teams = models.ManyToManyField(
        "accounts.Team",
        blank=True,
        related_name="mcp_servers",
        verbose_name=_("teams"),
        help_text=_("Who may use it. Empty: everybody."),
    )
    transport = models.CharField(_("transport"), max_length=5, choices=Transport.choices, default=Transport.HTTP)
    url = models.CharField(_("URL"), max_length=2048, blank=True)
    may_be_private = models.BooleanField(
        _("may have a private address"), default=False, help_text=_("For a server inside your own network.")
    )
    encrypted_headers = models.TextField(blank=True, editable=False)
    command = models.CharField(_("command"), max_length=1024, blank=True, help_text=_("The full path of a program."))
    arguments = models.JSONField(_("arguments"), default=list, blank=True)
    encrypted_env = models.TextField(blank=True, editable=False)
    folder = models.CharField(_("working folder"), max_length=1024, blank=True)
    timeout_s = models.FloatField(
        _("seconds for a call"), null=True, blank=True, help_text=_("Empty: as the settings say.")
    )
    # Each: name, description, input_schema, annotations. As the server listed them when it was last asked.
    tools = models.JSONField(default=list, editable=False)
    enabled_tools = models.JSONField(_("tools that may be called"), default=list, blank=True)
    checked_at = models.DateTimeField(_("last asked"), null=True, editable=False)
    error = models.TextField(_("error"), blank=True, editable=False)  # of that time
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("MCP server")
        verbose_name_plural = _("MCP servers")

    def __str__(self) -> str:
        return self.name


class CallStatus(models.TextChoices):
    """How a call ended."""

    OK = "ok", _("Completed")
    TOOL_ERROR = "tool_error", _("The tool reported an error")
    FAILED = "failed", _("Failed")
    TIMEOUT = "timeout", _("Took too long")
    CANCELLED = "cancelled", _("Cancelled")


class ToolCallRecord(models.Model):
    """One call: who had which tool called, and how it went. Neither arguments nor results."""

    server = models.ForeignKey(
        McpServer, on_delete=models.SET_NULL, null=True, related_name="calls", verbose_name=_("MCP server")
    )
    server_label = models.CharField(_("label"), max_length=100)
    origin = models.CharField(_("address"), max_length=300, blank=True)  # of a server that a request brought along
    tool = models.CharField(_("tool"), max_length=200)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("user")
    )
    team = models.ForeignKey(
        "accounts.Team", on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("team")
    )
    api_key = models.ForeignKey(
        "accounts.APIKey", on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("API key")
    )
    request_id = models.CharField(_("request"), max_length=64, db_index=True)
    started_at = models.DateTimeField(_("started"), db_index=True)
    duration_s = models.FloatField(_("seconds"))
    status = models.CharField(_("status"), max_length=10, choices=CallStatus.choices)

    class Meta:
        ordering = ["-started_at"]
        verbose_name = _("tool call")
        verbose_name_plural = _("tool calls")

    def __str__(self) -> str:
        return f"{self.server_label}.{self.tool}"
