from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class McpConfig(AppConfig):
    name = "apps.mcp"
    verbose_name = _("Tools")
    default_auto_field = "django.db.models.BigAutoField"
