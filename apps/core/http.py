"""One shape for every answer that is not a success, whichever half serves it, and the framing of server-sent events.

Knows HTTP and ServiceError; nothing of what is asked.
"""

import logging
import math
from typing import Any

import msgspec
from django.conf import settings
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig
from django.http import Http404
from rest_framework import exceptions as drf
from rest_framework.response import Response
from rest_framework.views import set_rollback

from apps.core.errors import (
    AuthenticationFailed,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    ServiceError,
    UnsupportedMediaType,
)

logger = logging.getLogger(__name__)
encode_json = msgspec.json.Encoder().encode

JSON_HEADER = (b"content-type", b"application/json")
SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would otherwise collect the events
]
SSE_DONE = b"data: [DONE]\n\n"
INTERNAL_MESSAGE = "The server failed to answer. Try again; if it happens again, tell your operator the x-request-id."


def make_internal_error() -> InternalError:
    """What a client is told of a fault of ours."""
    return InternalError(INTERNAL_MESSAGE)


def encode_error(error: ServiceError) -> bytes:
    """The JSON body of an error response."""
    return encode_json(error.as_dict())


def get_error_headers(error: ServiceError) -> dict[str, str]:
    """Headers beside the body: when to come back, how to sign in."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.is_final:
        headers["x-should-retry"] = "false"  # read by OpenAI's and Anthropic's clients
    if error.status == AuthenticationFailed.status:
        headers["www-authenticate"] = "Bearer"
    return headers


def encode_sse(payload: bytes) -> bytes:
    """One event. `payload` is JSON, which holds no raw line break."""
    return b"data: " + payload + b"\n\n"


def encode_sse_comment(text: str) -> bytes:
    """A line that clients skip: it keeps the connection alive and tells a human what happens."""
    return f": {' '.join(text.split())}\n\n".encode()


def encode_sse_error(error: ServiceError) -> bytes:
    """The event that ends a stream in place of `[DONE]`."""
    return encode_sse(encode_error(error))


def to_service_error(error: Exception) -> ServiceError | None:
    """The public error that a DRF or Django exception stands for, None when it is a fault of ours."""
    match error:
        case ServiceError():
            return error
        case drf.NotAuthenticated() | drf.AuthenticationFailed():
            return AuthenticationFailed(str(error.detail))
        case drf.PermissionDenied():
            return PermissionDenied(str(error.detail))
        case DjangoPermissionDenied():
            return PermissionDenied("You may not do this.")
        case drf.NotFound() | Http404():
            return NotFound("There is nothing at this address that you may see.")
        case RequestDataTooBig():
            return PayloadTooLarge(f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes.")
        case drf.MethodNotAllowed():
            return MethodNotAllowed(str(error.detail))
        case drf.UnsupportedMediaType():
            return UnsupportedMediaType(str(error.detail))
        case drf.Throttled():
            return RateLimited(str(error.detail), retry_after_s=getattr(error, "wait", None))
        case drf.ValidationError():
            return _from_validation(error)
        case drf.APIException() if error.status_code < 500:
            return InvalidRequest(str(error.detail))
    return None


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's hook: every exception of a view leaves as the OpenAI error object."""
    set_rollback()
    public = to_service_error(error)
    if public is None:
        logger.error("a view failed", exc_info=error)
        public = make_internal_error()
    return Response(public.as_dict(), status=public.status, headers=get_error_headers(public))


def _from_validation(error: drf.ValidationError) -> InvalidRequest:
    """The first message of a serializer's errors, with the path of the field it is about."""
    detail: Any = error.detail
    path: list[str] = []
    while isinstance(detail, dict | list) and detail:
        if isinstance(detail, dict):
            key, detail = next(iter(detail.items()))
            path.append(str(key))
        else:
            detail = detail[0]
    param = ".".join(part for part in path if part != "non_field_errors")
    return InvalidRequest(str(detail), param=param or None)
