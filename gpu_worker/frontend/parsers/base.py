"""What a parser of reasoning or of tool calls promises. How to add one: docs/engine.md.

Parsers see the text of one answer in pieces, after stop strings, and never fail: whatever they do
not understand is text. The outcome does not depend on how the text is cut into pieces.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

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
    """How calls are written: first, then before + heading + arguments + after of each call, then last.

    `trigger` is a part of first + before by which a call is known among other text; empty where nothing tells it.
    """

    before: str
    after: str = ""
    trigger: str = ""
    separator: str | None = ""  # between two calls; None: an answer has one
    first: str = ""
    last: str = ""
    heading: str = ""  # a Lark expression
    sample: str = ""  # before + heading as the parser may get to see them, where that is not `before`


class Notation(NamedTuple):
    """How arguments are written by a format in which they are no JSON object. The outer four are Lark expressions."""

    before_key: str
    after_key: str
    after_value: str
    separator: str
    key: str  # the names that the parser reads back, as a regular expression
    # All JSON; texts bare and the rest JSON; or texts between marks, also in lists and objects of the format's own.
    values: Literal["json", "text", "marked"]
    opening: str = ""  # of a text
    closing: str = ""
    excluded: tuple[str, ...] = ()  # what no text can hold
    trims_newline: bool = False  # whether a text loses a line break at either end


@runtime_checkable
class ShapedCalls(Protocol):
    """A parser class of a format whose calls can be enforced (tool_choice "required", strict tools); optional."""

    notation: Notation | None  # None: arguments are a JSON object

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        """How a call of this function is written by a model with this chat template."""


@runtime_checkable
class EnclosedReasoning(Protocol):
    """A parser class of reasoning between two marks, after which the form of an answer can be enforced; optional."""

    enclosure: tuple[str, str]
    excluded: tuple[str, ...]  # what would end the reasoning otherwise
    answer_opening: str  # what an answer that is no call begins with
