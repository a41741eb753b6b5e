"""ASGI middleware around the whole HTTP side: request ids and CORS, on every path and on every error.

It sits outside Django, so that consumers, views, static files and error pages all leave in the same way.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings

from apps.core.ids import new_request_id

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")  # safe to echo into a header and to log
_SANE_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_, -]{1,2000}")
_METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"
_EXPOSED = b"x-request-id, request-id, retry-after, x-should-retry, " + b", ".join(
    b"x-ratelimit-%s-%s" % (what, of) for of in (b"requests", b"tokens") for what in (b"limit", b"remaining", b"reset")
)
_MAX_AGE_S = b"600"


def get_header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


class HttpMiddleware:
    """Gives every request an id, and lets pages of the allowed origins call the API from a browser.

    The id is the client's `x-request-id` when it is sane, else a new one: `scope["request_id"]` inside, the header
    `x-request-id` outside. Without allowed origins there is no CORS; with them, credentials (cookies) are still never
    allowed across origins: the API takes keys, the portal is for its own pages.
    https://fetch.spec.whatwg.org/#http-cors-protocol
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = get_header(scope, b"x-request-id")
        request_id = given if given and _SANE_REQUEST_ID.fullmatch(given) else new_request_id().encode()
        scope["request_id"] = request_id.decode()
        headers = [(b"x-request-id", request_id)]
        if allowed := settings.CORS_ALLOWED_ORIGINS:
            origin = get_header(scope, b"origin")
            if origin is None or not _is_allowed(origin.decode("latin-1"), allowed):
                headers.append((b"vary", b"Origin"))
            elif scope["method"] == "OPTIONS" and get_header(scope, b"access-control-request-method"):
                headers += _make_preflight_headers(scope, origin)
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                return await send({"type": "http.response.body", "body": b""})
            else:
                headers += [*_make_origin_headers(origin), (b"access-control-expose-headers", _EXPOSED)]
        await self.app(scope, receive, add_headers(send, headers))


def _is_allowed(origin: str, allowed: list[str]) -> bool:
    """By name, or by scheme: an app's windows may have origins of their own, such as vscode-webview://UUID."""
    scheme, _, _ = origin.partition("://")
    return "*" in allowed or origin in allowed or f"{scheme}://*" in allowed


def _make_origin_headers(origin: bytes) -> Headers:
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]


def _make_preflight_headers(scope: Scope, origin: bytes) -> Headers:
    headers = [
        *_make_origin_headers(origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _MAX_AGE_S),
    ]
    # SDKs add headers of their own (x-stainless-…): whichever the page asks for is allowed.
    asked = get_header(scope, b"access-control-request-headers")
    if asked and _SANE_HEADER_NAMES.fullmatch(asked):
        headers.append((b"access-control-allow-headers", asked))
    if get_header(scope, b"access-control-request-private-network") == b"true":
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers


def add_headers(send: Send, extra: Headers) -> Send:
    """The same, with these headers beside those of the answer."""

    def send_with_headers(message: Message) -> Awaitable[None]:  # no coroutine of its own: it is called for every chunk
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *extra]
        return send(message)

    return send_with_headers
