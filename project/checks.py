"""Settings that are each valid but wrong together, found at start by `manage.py check` and before every command.

Ids: atrium.E… stops the start, atrium.W… is a warning. Pure functions of the settings.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ValidationError

from apps.accounts.keys import MAX_SECRET_LENGTH, MIN_SECRET_LENGTH
from apps.registry.validators import validate_model_name

MAX_USUAL_PROXY_IDLE_S = 60  # nginx, ALB and others close a silent connection then


@register(Tags.security)
def check_public_address(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """PUBLIC_BASE_URL is an address that clients can use."""
    url = settings.PUBLIC_BASE_URL
    if not url:
        return []
    found: list[CheckMessage] = []
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found.append(Error("PUBLIC_BASE_URL must be like https://atrium.example.com.", id="atrium.E001"))
    elif parts.path or parts.query:
        found.append(Error("PUBLIC_BASE_URL must have no path: Atrium serves from the root.", id="atrium.E002"))
    if settings.DEBUG and parts.scheme == "https":
        hint = "Unset ATRIUM_DEBUG: its error pages show the source and the settings."
        found.append(Warning("ATRIUM_DEBUG is on at a public https address.", hint=hint, id="atrium.W001"))
    return found


@register(Tags.security)
def check_cors(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Every CORS origin is one that a browser can send."""
    origins = settings.CORS_ALLOWED_ORIGINS
    found: list[CheckMessage] = []
    if "*" in origins and len(origins) > 1:
        found.append(Warning("ATRIUM_CORS_ALLOWED_ORIGINS has * and others; * allows all.", id="atrium.W002"))
    for origin in origins:
        if not _is_origin(origin):
            message = f"ATRIUM_CORS_ALLOWED_ORIGINS: {origin!r} is no origin."
            hint = "Write scheme://host, scheme://host:port, null, or app-scheme://* for all windows of an app."
            found.append(Error(message, hint=hint, id="atrium.E003"))
    return found


def _is_origin(given: str) -> bool:
    """Of a page, of a file or a sandbox (null), of an app; or a pattern for all (*) or for all windows of an app."""
    parts = urlsplit(given)
    if given in ("*", "null"):
        return True
    if parts.netloc == "*" and parts.scheme in ("http", "https"):
        return False
    return bool(parts.scheme and parts.netloc) and given == f"{parts.scheme}://{parts.netloc}"


@register(Tags.security)
def check_first_credentials(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """A fixed first key is as long as `create_key` wants it."""
    key = settings.BOOTSTRAP_API_KEY
    if key and not MIN_SECRET_LENGTH <= len(key) <= MAX_SECRET_LENGTH:
        message = f"ATRIUM_API_KEY must have {MIN_SECRET_LENGTH} to {MAX_SECRET_LENGTH} characters."
        return [Error(message, id="atrium.E004")]
    return []


@register()
def check_forced_model(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """The forced model has a name that a model can have."""
    name = settings.FORCE_MODEL.partition("@")[0]
    try:
        if name:
            validate_model_name(name)
    except ValidationError:
        return [Error(f"ATRIUM_FORCE_MODEL: {name!r} cannot be a model's name.", id="atrium.E005")]
    return []


@register(Tags.database)
def check_deployment_shape(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """The database and the broker are both for one machine, or both for several."""
    is_sqlite = settings.DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3"
    is_file_broker = settings.CELERY_BROKER_URL == "filesystem://"
    if is_sqlite and settings.REDIS_URL:
        message = "REDIS_URL is set, but the database is SQLite, which serves one machine only."
        return [Warning(message, hint="Set DATABASE_URL to a PostgreSQL server.", id="atrium.W003")]
    if not is_sqlite and is_file_broker:
        message = "DATABASE_URL is set, but tasks travel through files, which serve one machine only."
        return [Warning(message, hint="Set REDIS_URL.", id="atrium.W004")]
    return []


@register()
def check_intervals(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Times that work against each other."""
    found: list[CheckMessage] = []
    if settings.SSE_KEEPALIVE_S >= MAX_USUAL_PROXY_IDLE_S:
        message = "ATRIUM_SSE_KEEPALIVE_S is a minute or more: proxies close streams that are silent so long."
        found.append(Warning(message, id="atrium.W005"))
    if settings.AUTH_CACHE_TTL_S > 300:
        message = "ATRIUM_AUTH_CACHE_TTL_S: other processes accept a revoked key for more than five minutes."
        found.append(Warning(message, id="atrium.W006"))
    return found
