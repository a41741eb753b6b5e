"""What Django itself answers when no view can: JSON on the paths of the API, its usual page elsewhere."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import defaults

from apps.core.errors import InvalidRequest, NotFound, PermissionDenied, ServiceError
from apps.core.http import make_internal_error

_API_PATHS = ("/v1/", "/models", "/chat/completions", "/completions", "/load_model", "/schema")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """400: a host that is not allowed, a malformed form."""
    if is_api_path(request):
        return _answer(InvalidRequest("The request is malformed, or its Host is not one of this server's."))
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """403."""
    if is_api_path(request):
        return _answer(PermissionDenied("You may not do this."))
    return defaults.permission_denied(request, exception)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """404."""
    if is_api_path(request):
        return _answer(NotFound(f"There is nothing at {request.path}."))
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest, **_: Any) -> HttpResponseBase:
    """500. Django has logged the cause."""
    return _answer(make_internal_error()) if is_api_path(request) else defaults.server_error(request)


def is_api_path(request: HttpRequest) -> bool:
    """Whether a program asks, not a browser."""
    return request.path.startswith(_API_PATHS)


def _answer(error: ServiceError) -> HttpResponse:
    return JsonResponse(error.as_dict(), status=error.status)
