"""The admin theme: colours, menu and first page. Read by `settings.py` alone."""

from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _


def _link(title: object, icon: str, view: str, permission: str = "") -> dict[str, object]:
    """A line of the admin's menu, shown to those who may see what it leads to."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{view}"),
        "permission": lambda request: not permission or request.user.has_perm(permission),
    }


ADMIN_THEME = {
    "SITE_TITLE": "Atrium",
    "SITE_HEADER": "Atrium",
    "SITE_SUBHEADER": _("Your team's inference portal"),
    "SITE_ICON": lambda request: static("portal/logo.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("portal/logo.svg")}],
    "STYLES": [lambda request: static("portal/admin.css")],
    "SHOW_LANGUAGES": True,
    "DASHBOARD_CALLBACK": "apps.portal.overview.add_overview",
    "COLORS": {
        "primary": {
            "50": "#f0fdfa",
            "100": "#ccfbf1",
            "200": "#99f6e4",
            "300": "#5eead4",
            "400": "#2dd4bf",
            "500": "#14b8a6",
            "600": "#0f766e",
            "700": "#0b5f59",
            "800": "#115e59",
            "900": "#134e4a",
            "950": "#042f2e",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {"items": [_link(_("Overview"), "monitoring", "index")]},
            {
                "title": _("Models"),
                "separator": True,
                "items": [
                    _link(_("Models"), "neurology", "registry_hostedmodel_changelist", "registry.view_hostedmodel"),
                    _link(_("Code"), "code", "registry_modelcode_changelist", "registry.view_modelcode"),
                    _link(_("Adapters"), "layers", "registry_adapter_changelist", "registry.view_adapter"),
                    _link(_("Replicas"), "memory", "registry_replica_changelist", "registry.view_replica"),
                    _link(_("Nodes"), "dns", "registry_node_changelist", "registry.view_node"),
                ],
            },
            {
                "title": _("Tools"),
                "separator": True,
                "items": [
                    _link(_("MCP servers"), "build", "mcp_mcpserver_changelist", "mcp.view_mcpserver"),
                    _link(_("Tool calls"), "history", "mcp_toolcallrecord_changelist", "mcp.view_toolcallrecord"),
                ],
            },
            {
                "title": _("People"),
                "separator": True,
                "items": [
                    _link(_("Users"), "person", "accounts_user_changelist", "accounts.view_user"),
                    _link(_("Teams"), "group", "accounts_team_changelist", "accounts.view_team"),
                    _link(_("API keys"), "key", "accounts_apikey_changelist", "accounts.view_apikey"),
                    _link(_("Permission groups"), "shield_person", "auth_group_changelist", "auth.view_group"),
                ],
            },
            {
                "title": _("Usage"),
                "separator": True,
                "items": [
                    _link(_("Usage records"), "receipt_long", "usage_usagerecord_changelist", "usage.view_usagerecord"),
                    _link(_("Quotas"), "speed", "quotas_quota_changelist", "quotas.view_quota"),
                    _link(_("Batches"), "stacks", "batches_batch_changelist", "batches.view_batch"),
                    _link(_("Files"), "draft", "files_storedfile_changelist", "files.view_storedfile"),
                ],
            },
        ],
    },
}
