"""What a failure of an OpenAI-compatible server means to our client. The one table; sends and logs nothing."""

import math
import re

import msgspec

from apps.core.errors import ContextLengthExceeded, InvalidRequest, PayloadTooLarge, ServiceError, Unavailable

MAX_MESSAGE_CHARS = 1000
MAX_RETRY_AFTER_S = 3600.0
RETRY_AFTER_S = 2.0
_TOO_LONG = re.compile(r"context.{0,20}length|maximum context|too many tokens|inputs.{0,20}tokens.{0,20}must", re.I)


class _Error(msgspec.Struct, frozen=True):
    message: str | None = None
    code: str | int | None = None
    param: str | None = None
    type: str | None = None


class _Envelope(msgspec.Struct, frozen=True):
    """OpenAI's and vLLM's `error` object, TGI's `error` text, SGLang's and vLLM's earlier flat form."""

    error: _Error | str | None = None
    message: str | None = None
    param: str | None = None
    code: str | int | None = None


_decoder = msgspec.json.Decoder(_Envelope)


def read_error(status: int, body: bytes, retry_after: str | None = None) -> ServiceError:
    """The public error for an answer that is none. What the server says of the request passes, nothing else does."""
    found = _read(body)
    if status in (400, 413, 415, 422):
        message = (found.message or "The upstream refused the request.")[:MAX_MESSAGE_CHARS]
        if status == 413:
            return PayloadTooLarge(message)
        if found.code == "context_length_exceeded" or _TOO_LONG.search(message):
            return ContextLengthExceeded(message, param=found.param)
        return InvalidRequest(message, param=found.param)
    if status in (408, 409, 425, 429, 503, 529):
        return Unavailable(
            "The model's server has too much to do. Try again later.",
            code="upstream_overloaded",
            retry_after_s=_read_retry_after(retry_after),
        )
    if status in (401, 402, 403, 404, 405) or 300 <= status < 400:
        return Unavailable("The model's server refuses this portal. Tell its administrator.", code="upstream_refused")
    return make_broken()


def read_event_error(data: bytes) -> ServiceError:
    """For an `error` event in the middle of a stream: its code is an HTTP status, where it has one."""
    found = _read(data)
    code = str(found.code or "")
    status = int(code) if code.isdigit() else 500
    return read_error(status, data)


def make_broken() -> ServiceError:
    """It failed, or broke off in the middle."""
    return Unavailable(
        "The model's server failed while it answered. Try again.", code="upstream_error", retry_after_s=RETRY_AFTER_S
    )


def make_unreachable() -> ServiceError:
    """No connection."""
    return Unavailable(
        "The model's server cannot be reached. Try again later.", code="upstream_unreachable", retry_after_s=5.0
    )


def make_silent() -> ServiceError:
    """It took the request and says nothing."""
    return Unavailable("The model's server did not answer in time.", code="upstream_timeout", retry_after_s=5.0)


def _read(body: bytes) -> _Error:
    try:
        envelope = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Error()
    if isinstance(envelope.error, _Error):
        return envelope.error
    return _Error(envelope.error or envelope.message, envelope.code, envelope.param)


def _read_retry_after(text: str | None) -> float:
    """Seconds; a date or nonsense is left to our own default."""
    try:
        seconds = float(text or "")
    except ValueError:
        return RETRY_AFTER_S
    return min(max(seconds, 1.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else RETRY_AFTER_S
