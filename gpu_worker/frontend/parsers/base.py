"""What a parser of reasoning or of tool calls promises. How to add one: docs/engine.md.

Parsers see the text of one answer in pieces, after stop strings, and never fail: whatever they do
not understand is text. The outcome does not depend on how the text is cut into pieces.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from gpu_worker.protocol import ToolCallDelta


class ReasoningSplit(NamedTuple):
    """New text, sorted."""

    reasoning: str
    content: str


class ReasoningParser(Protocol):
    """Separates a model's thinking from its answer."""

    @property
    def is_open(self) -> bool:
        """Whether the text read last belongs to the reasoning."""

    def push(self, text: str) -> ReasoningSplit:
        """Read the next piece."""

    def flush(self) -> ReasoningSplit:
        """What is still held at the end of the answer."""


class ToolCallSplit(NamedTuple):
    """New content, and new pieces of tool calls."""

    content: str
    tool_calls: list[ToolCallDelta]


class ToolCallParser(Protocol):
    """Recognises the calls a model writes into its answer."""

    num_complete: int  # well-formed calls read so far

    def push(self, text: str) -> ToolCallSplit:
        """Read the next piece."""

    def flush(self) -> ToolCallSplit:
        """What is still held at the end of the answer: a call that was cut short becomes content."""


class CallShape(NamedTuple):
    """How calls with JSON arguments are written: first, then before + arguments + after of each call, then last.

    `trigger` is the beginning of first + before by which a call is known among other text.
    """

    before: str
    after: str
    trigger: str
    separator: str = ""  # between two calls
    first: str = ""
    last: str = ""


@runtime_checkable
class ShapedCalls(Protocol):
    """A parser class of a format whose calls can be enforced (tool_choice "required", strict tools); optional."""

    @staticmethod
    def call_shape(name: str) -> CallShape:
        """How a call of this function is written."""


@runtime_checkable
class EnclosedReasoning(Protocol):
    """A parser class of reasoning between two marks, after which the form of an answer can be enforced; optional."""

    enclosure: tuple[str, str]
