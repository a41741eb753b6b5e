"""What a model may be called, and where an adapter or an upstream may be.

Names travel in URLs and logs, and must never be taken for a path.
"""

import re
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

# The colon serves GGUF ids (repo:file.gguf); the at sign is kept for pinning a revision (name@revision).
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*(/[A-Za-z0-9][A-Za-z0-9._:+-]*)*")


def validate_model_name(value: str) -> None:
    """Raises ValidationError unless it is letters, digits and . _ - : + in parts separated by single slashes."""
    if not _NAME.fullmatch(value) or ".." in value:
        raise ValidationError(_("Use letters, digits and . _ - : + in parts separated by slashes."), code="model_name")


def validate_adapter_source(value: str) -> None:
    """Raises ValidationError unless it is the path of a folder, from / or ~ on, or can be a hub id."""
    if not value.startswith(("/", "~/")) and not _HUB_ID.fullmatch(value):
        raise ValidationError(_("Give a hub id, or a folder beginning with / or ~/."))


def validate_upstream_url(value: str) -> None:
    """Raises ValidationError unless it is http: or https:, with a host, and holds neither secret nor query."""
    try:
        parts = urlsplit(value)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_sound = False
    if not is_sound or parts.username is not None or parts.query or parts.fragment or re.search(r"\s", value):
        raise ValidationError(_("Give an http: or https: URL without user name, query and fragment."))
