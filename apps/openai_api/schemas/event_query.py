"""The query of GET /v1/responses/{id}?stream=true.

https://platform.openai.com/docs/api-reference/responses/get. Knows nothing of responses.
"""

from urllib.parse import parse_qs

from apps.core.errors import InvalidRequest

_FALSE = ("", "false", "0")


def asks_for_stream(query: bytes) -> bool:
    """Whether the response is asked for as a stream of its events."""
    return _read(query).get("stream", "false").lower() not in _FALSE


def read_position(query: bytes) -> int:
    """The number of the first event to send: the one after `starting_after`. Raises InvalidRequest."""
    given = _read(query).get("starting_after")
    if given is None:
        return 0
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidRequest("'starting_after' must be the sequence number of an event.", param="starting_after")
    return int(given) + 1


def _read(query: bytes) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items()}
