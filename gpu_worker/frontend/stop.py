"""Finds stop strings in a stream of text, and holds back what may be the beginning of one.

Knows nothing of tokens. The outcome does not depend on how the text is cut into pieces.
"""

from collections.abc import Sequence
from typing import NamedTuple


class StopResult(NamedTuple):
    """Text that may be sent, and the stop string that has just been completed."""

    text: str
    stop: str | None = None


class StopMatcher:
    """State of one answer. The stop string that is complete first wins; of several that end at the same
    character, the longest. Neither it nor anything after it is ever given out."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> StopResult:
        """Text released by this piece. After a stop was found the matcher must not be used again."""
        text = self._held + text
        found = min(
            ((position + len(stop), position, stop) for stop in self._stops if (position := text.find(stop)) >= 0),
            default=None,
        )
        if found is not None:
            self._held = ""
            return StopResult(text[: found[1]], found[2])
        num_held = max((count_partial_match(text, stop) for stop in self._stops), default=0)
        released = len(text) - num_held
        self._held = text[released:]
        return StopResult(text[:released])

    def flush(self) -> str:
        """What is still held at the end of the answer: it was no stop string after all."""
        held, self._held = self._held, ""
        return held


def count_partial_match(text: str, marker: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `marker`."""
    start = text.find(marker[0], max(0, len(text) - len(marker) + 1))
    while start >= 0:
        if marker.startswith(text[start:]):
            return len(text) - start
        start = text.find(marker[0], start + 1)
    return 0
