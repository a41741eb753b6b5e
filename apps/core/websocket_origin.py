"""Which pages may open a WebSocket here: our own. Browsers send cookies along with any page's sockets."""

from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import split_domain_port, validate_host

from apps.core.middleware import ASGIApp, Receive, Scope, Send, get_header


class SameOriginMiddleware:
    """Refuses a WebSocket whose `Origin` is not the host and port that it connects to.

    Channels' own validator compares hosts alone, and would let in what else runs on another port of the machine.
    CSRF_TRUSTED_ORIGINS, which holds PUBLIC_BASE_URL, is for proxies that rewrite `Host`, as for Django's forms.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = (get_header(scope, b"origin") or b"").decode("latin-1")
        host = (get_header(scope, b"host") or b"").decode("latin-1")
        if origin in settings.CSRF_TRUSTED_ORIGINS or (_is_ours(host) and _find_host(origin) == host.lower()):
            return await self.app(scope, receive, send)
        return await WebsocketDenier()(scope, receive, send)


def _is_ours(host: str) -> bool:
    """Whether the host is one that we serve: a foreign name may have been pointed at our address."""
    return validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)


def _find_host(origin: str) -> str:
    """Host and port of an http origin; empty for any other and for "null"."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""
