"""What is not served below /v1/messages."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from apps.anthropic_api.errors import make_error
from apps.core.errors import NotFound


@csrf_exempt
def unknown_path(request: HttpRequest) -> JsonResponse:
    """Batches of messages, for one, as Anthropic's error object."""
    request_id: str = getattr(request, "scope", {}).get("request_id", "")
    error = NotFound(f"There is no {request.method} {request.path} here.")
    return JsonResponse(make_error(error, request_id), status=error.status, headers={"request-id": request_id})
