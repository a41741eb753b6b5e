"""Every failure a client can be told of, with its HTTP status and its OpenAI `type` and `code`.

The message of a ServiceError is public; details for the operator go to the log, never into it.
Reference: https://platform.openai.com/docs/guides/error-codes
"""

from typing import Any


class ServiceError(Exception):
    """Base of all public errors. Raised anywhere below the edge, encoded once at the edge."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    default_retry_after_s: float | None = None
    is_final = False  # the same request will be refused again however soon it comes

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        if code is not None:
            self.code = code

    def as_dict(self) -> dict[str, Any]:
        """The OpenAI error object: {"error": {message, type, param, code}}."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ServiceError):
    """The body cannot be understood, or a field has a value that is not allowed."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room in the model's context."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """A field that would change the answer and that this model or engine cannot honour."""

    code = "unsupported_parameter"


class AuthenticationFailed(ServiceError):
    """No key, or a key that is unknown, expired or revoked."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    is_final = True  # told so, Claude Code shows it at once, and else after three minutes


class PermissionDenied(ServiceError):
    """A known caller who may not do this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(ServiceError):
    """Nothing of that name that this caller may see."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No model of that name that this caller may see."""

    code = "model_not_found"


class MethodNotAllowed(ServiceError):
    """The path exists, not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(ServiceError):
    """The request's own time limit ran out."""

    status = 408
    type = "timeout_error"
    code = "timeout"


class Conflict(ServiceError):
    """The object is in a state that does not allow this."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class Gone(ServiceError):
    """It was there, and is kept no longer."""

    status = 410
    type = "invalid_request_error"
    code = "gone"


class PayloadTooLarge(ServiceError):
    """The body exceeds the limit."""

    status = 413
    type = "invalid_request_error"
    code = "payload_too_large"


class UnsupportedMediaType(ServiceError):
    """The body is not of a content type that this path reads."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class FailedDependency(ServiceError):
    """A server that the request names, and that is needed for the answer, does not do its part."""

    status = 424
    type = "external_connector_error"
    code = "failed_dependency"


class RateLimited(ServiceError):
    """A limit of the caller's is reached."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    default_retry_after_s = 10.0


class RequestOverLimit(RateLimited):
    """The request alone is more than a limit of the caller's allows."""

    default_retry_after_s = 60.0
    is_final = True


class InsufficientQuota(RateLimited):
    """A budget of the caller's is used up until its period ends."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    is_final = True


class InternalError(ServiceError):
    """A fault of ours. The message says nothing of the inside."""


class Unavailable(ServiceError):
    """The model cannot answer now: loading failed, overloaded, or every replica is gone."""

    status = 503
    type = "service_unavailable_error"
    code = "service_unavailable"
    default_retry_after_s = 10.0
