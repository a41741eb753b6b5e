"""Reads tool calls out of a text that comes in pieces: what all formats share. It knows no format.

A format is a subclass that says what opens a block of calls (`opening`) and reads one (`read_block`) as if the whole
answer were there: each `yield from` waits for the text it needs. Three rules make the outcome independent of how the
text is cut into pieces: a pattern ends with something that more text cannot lengthen, nothing is decided before the
pattern is, and everything that was not passed on as part of a call is content.
"""

import secrets
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Protocol, TypeVar

from gpu_worker.frontend.parsers.base import Notation, ToolCallSplit
from gpu_worker.frontend.parsers.json_text import ObjectScanner, load_json
from gpu_worker.frontend.stop import count_partial_match
from gpu_worker.protocol import ToolCallDelta

_Result = TypeVar("_Result")
Reading = Generator[None, None, _Result]  # each yield asks for more text


class Scanner(Protocol):
    """Looks for the end of something that comes in pieces."""

    is_closed: bool
    is_malformed: bool

    def scan(self, text: str) -> int:
        """How many characters of the next piece belong to it. Sets `is_closed` or `is_malformed`."""


class Malformed(Exception):
    """What follows is no call of this format, or the answer has ended within it."""


class CallReader:
    """A parser of tool calls (see `base.ToolCallParser`).

    Blanks around calls are dropped. Where a block turns out to be none, or is cut, all that no call has taken becomes
    content. A call that was being streamed by then stays incomplete: it does not count in `num_complete`.
    """

    name = ""
    markers: tuple[str, ...] = ()
    opening: Any  # pattern, found anywhere
    opening_at_start: Any = None  # pattern, tried once at the beginning of the answer
    notation: Notation | None = None
    # Writes calls (name, arguments) in this format: for models whose template does not.
    write_calls: Callable[[list[tuple[str, Any]]], str] | None = None

    def __init__(self, tools: Sequence[dict[str, Any]] = ()) -> None:
        self.num_complete = 0
        self.tools = tools
        self._num_started = 0
        self._arguments: list[str] = []  # of the call being read, as passed on
        self._text = ""
        self._at = 0  # read so far; what stands before is dropped by `commit`
        self.opened: Any = None  # the match of the opening
        self._opening_end = 0
        self._has_committed = False  # since the block was opened
        self._is_at_start = True
        self._is_ended = False
        self._content: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._reading = self._read()

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        """Whether a chat template asks for this format; `tokens` are the tokenizer's added tokens."""
        raise NotImplementedError

    def push(self, text: str) -> ToolCallSplit:
        """Read the next piece."""
        self._text += text
        return self._read_on()

    def flush(self) -> ToolCallSplit:
        """What is still held at the end of the answer."""
        self._is_ended = True
        return self._read_on()

    def read_block(self) -> Reading[None]:
        """Read what follows the opening. Raises Malformed where it stops being what this format is."""
        raise NotImplementedError

    # --- what a format is made of ---

    def match(self, pattern: Any) -> Reading[Any]:
        """Read what the pattern matches here; returns the match. Raises Malformed."""
        found = yield from self.maybe(pattern)
        if found is None:
            raise Malformed
        return found

    def maybe(self, pattern: Any) -> Reading[Any]:
        """Read what the pattern matches here, if it does; returns the match or None."""
        while True:
            found = pattern.match(self._text, self._at, partial=not self._is_ended)
            if found is None or not found.partial:
                self._at = found.end() if found is not None else self._at
                return found
            yield

    def skip(self, characters: str) -> Reading[None]:
        """Drop these characters, however many there are."""
        while True:
            rest = self._text[self._at :].lstrip(characters)
            self._at = len(self._text) - len(rest)
            self.commit()
            if rest or self._is_ended:
                return
            yield

    def read_until(self, marker: str) -> Reading[str]:
        """Read to the end of the marker; returns what stands before it. Raises Malformed."""
        searched = self._at
        while (end := self._text.find(marker, searched)) < 0:
            searched = max(self._at, len(self._text) - len(marker) + 1)
            yield from self._wait()
        text, self._at = self._text[self._at : end], end + len(marker)
        return text

    def read_part(self, marker: str) -> Reading[tuple[str, bool]]:
        """Read what is there up to the marker, or the marker; returns the text and whether it was the last of it.

        Raises Malformed where the answer ends before the marker.
        """
        while True:
            before, found, _ = self._text[self._at :].partition(marker)
            if not before and found:
                self._at += len(marker)
                return "", True
            size = len(before) - (0 if found else count_partial_match(before, marker))
            if size:
                self._at += size
                return before[:size], False
            yield from self._wait()

    def read_object(self) -> Reading[str]:
        """Read a JSON object, whole. Raises Malformed."""
        return (yield from self.read_scanned(ObjectScanner()))

    def read_scanned(self, scanner: Scanner) -> Reading[str]:
        """Read to the end that the scanner finds; returns what stands before it. Raises Malformed."""
        start = self._at
        while True:
            self._at += scanner.scan(self._text[self._at :])
            if scanner.is_closed:
                return self._text[start : self._at]
            if scanner.is_malformed:
                raise Malformed
            yield from self._wait()

    def stream_object(self) -> Reading[None]:
        """Pass a JSON object on as it comes: the arguments of the call that was started. Raises Malformed."""
        scanner = ObjectScanner()
        while True:
            size = scanner.scan(self._text[self._at :])
            piece = self._text[self._at : self._at + size]
            self._at += size
            self.add_arguments(piece)
            if scanner.is_malformed:
                raise Malformed
            if scanner.is_closed:
                return self.finish_call()
            yield from self._wait()

    def start_call(self, name: str) -> None:
        """Pass on that a call has begun."""
        self.commit()
        self._arguments = []
        self._calls.append(ToolCallDelta(index=self._num_started, id=f"call_{secrets.token_hex(12)}", name=name))
        self._num_started += 1

    def add_arguments(self, text: str) -> None:
        """Pass on a piece of the arguments of the call that was started."""
        self.commit()
        if text:
            self._arguments.append(text)
            self._calls.append(ToolCallDelta(index=self._num_started - 1, arguments=text))

    def finish_call(self) -> None:
        """The call is complete, if its arguments are a JSON object."""
        if isinstance(load_json("".join(self._arguments)), dict):
            self.num_complete += 1

    def add_call(self, name: str, arguments: str) -> None:
        """Pass on a whole call in one piece."""
        self.start_call(name)
        self._arguments = [arguments]
        self._calls[-1] = ToolCallDelta(
            index=self._num_started - 1, id=self._calls[-1].id, name=name, arguments=arguments
        )
        self.finish_call()

    def commit(self) -> None:
        """All that was read belongs to calls: it can no longer become content."""
        self._text = self._text[self._at :]
        self._at = 0
        self._has_committed = True

    # --- the loop around the blocks ---

    def _read_on(self) -> ToolCallSplit:
        next(self._reading, None)
        split = ToolCallSplit("".join(self._content), self._calls)
        self._content, self._calls = [], []
        return split

    def _read(self) -> Reading[None]:
        while (yield from self._read_content()):
            try:
                yield from self.read_block()
            except Malformed:
                self._give_up()
            else:
                self.commit()

    def _wait(self) -> Reading[None]:
        if self._is_ended:
            raise Malformed
        yield

    def _read_content(self) -> Reading[bool]:
        """Pass on everything before the next opening, which is read. Returns False at the end of the answer."""
        while True:
            found = self.find_opening()
            is_open = found is not None and not found.partial
            if self._is_ended and not is_open:
                is_blank_after_call = self._num_started and not self._text.strip()
                self._say("" if is_blank_after_call else self._text)
                return False
            before = self._text[: found.start()] if found is not None else self._text
            visible = before.rstrip()
            self._say(visible)
            self._text = self._text[len(visible) :]
            if is_open:
                self.opened = found
                self._at = self._opening_end = found.end() - len(visible)
                self._has_committed = self._is_at_start = False
                return True
            yield

    def find_opening(self) -> Any:
        """The match, a partial one where more text is needed to tell, or None."""
        is_partial = not self._is_ended
        if self._is_at_start and self.opening_at_start is not None:
            found = self.opening_at_start.match(self._text, partial=is_partial)
            if found is not None:
                return found
            self._is_at_start = False
        return self.opening.search(self._text, partial=is_partial)

    def _give_up(self) -> None:
        """The opening of a block that took nothing is content; what follows it may still open another one."""
        if not self._has_committed:
            self._say(self._text[: self._opening_end])
            self._text = self._text[self._opening_end :]
        self._at = 0

    def _say(self, text: str) -> None:
        if text:
            self._content.append(text)
            self._is_at_start = False
