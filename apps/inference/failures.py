"""What a worker's failure means to the client: the one table from FailureCode to ServiceError."""

from apps.core.errors import (
    ContextLengthExceeded,
    InternalError,
    InvalidRequest,
    ServiceError,
    Unavailable,
    UnsupportedParameter,
)
from gpu_worker.protocol import Failed

RETRY_AFTER_S = 2.0
# Nothing of the request's own is wrong: another replica may take it.
RETRIED_ELSEWHERE = frozenset({"overloaded", "not_ready", "internal"})


def to_service_error(failed: Failed) -> ServiceError:
    """The public error. Messages about the request are the worker's own; those about the worker stay in its log."""
    match failed.code:
        case "invalid_request":
            return InvalidRequest(failed.message, param=failed.param)
        case "context_length_exceeded":
            return ContextLengthExceeded(failed.message, param=failed.param)
        case "unsupported":
            return UnsupportedParameter(failed.message, param=failed.param)
        case "overloaded":
            return Unavailable(
                "The model has too many requests waiting. Try again later.",
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
            )
        case "not_ready":
            return Unavailable("The model is not ready. Try again later.", retry_after_s=RETRY_AFTER_S)
        case "internal":
            return InternalError("The model failed while it answered. Try again.")
