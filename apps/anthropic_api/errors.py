"""Failures as Anthropic's error objects. Knows the wire; what failed is a ServiceError.

https://docs.anthropic.com/en/api/errors
"""

from typing import Any

from apps.core.errors import ContextLengthExceeded, ServiceError

OVERLOADED_STATUS = 529  # Anthropic's own
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    OVERLOADED_STATUS: "overloaded_error",
}


def get_status(error: ServiceError) -> int:
    """The HTTP status."""
    return OVERLOADED_STATUS if error.code == "overloaded" else error.status


def make_error(error: ServiceError, request_id: str) -> dict[str, Any]:
    """The object. It has no place for a field's name, so the message has it."""
    status = get_status(error)
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    message = error.message
    if error.code == ContextLengthExceeded.code:  # the words by which Claude Code knows that it has to say less
        message = f"prompt is too long: {message}"
    elif error.param and error.param not in message:
        message = f"{error.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
