"""Server-sent events out of the pieces in which they arrive. Knows no meaning of theirs."""

from collections.abc import Iterator

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLarge(ValueError):
    """A line without an end: it is no stream of events."""


class SSELines:
    """The `data:` lines of one stream. All servers that we ask write each event in one such line."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of every line that is complete by now. Raises EventTooLarge."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
