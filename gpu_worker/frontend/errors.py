"""The one way the frontend refuses a request. Knows nothing of connections or engines."""

from gpu_worker.protocol import FailureCode


class RequestRejected(Exception):
    """A request that cannot be served as it stands; becomes a `Failed` event.

    `message` may be shown to the client; `param` names the field at fault in OpenAI's notation
    (`messages[2].content[0].type`).
    """

    def __init__(self, code: FailureCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message
        self.param = param


def invalid(message: str, param: str) -> RequestRejected:
    """The field `param` has a value that can never be served."""
    return RequestRejected("invalid_request", message, param)


def unsupported(message: str, param: str) -> RequestRejected:
    """The field `param` is well formed, but this model or engine cannot honour it."""
    return RequestRejected("unsupported", message, param)


def check_text(text: str, param: str) -> str:
    """Raises RequestRejected on lone surrogates, which JSON escapes can smuggle in and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise invalid("The text holds characters that are not valid Unicode.", param) from error
    return text
