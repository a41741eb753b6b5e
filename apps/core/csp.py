"""Content-Security-Policy of every HTML page: scripts only from our own static files, never inline."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse

_COMMON = "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
# connect-src 'self' covers the page's own WebSocket (CSP 3). No remote images: an answer must not be able to
# tell another server, by the address of a picture, what was said.
STRICT = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; {_COMMON}"
# The admin theme is built on Alpine.js, which evaluates expressions in attributes.
ADMIN = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    f"img-src 'self' data:; {_COMMON}"
)


class ContentSecurityPolicyMiddleware:
    """Sets the header on HTML responses that carry none of their own."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.admin_path = reverse("admin:index")

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The response of the layers below, with the header."""
        response = self.get_response(request)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            policy = ADMIN if request.path.startswith(self.admin_path) else STRICT
            response.headers.setdefault("Content-Security-Policy", policy)
        return response
