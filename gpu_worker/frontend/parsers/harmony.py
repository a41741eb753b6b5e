"""gpt-oss: messages in channels. analysis is reasoning, final and commentary are content, a recipient makes a call.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
    <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{...}<|call|>

https://cookbook.openai.com/articles/openai-harmony. The reasoning parser takes the channels apart and hands calls on
in one spelling, which the tool-call parser reads; they go together.
"""

import enum
from collections.abc import Collection

import regex

from gpu_worker.frontend.parsers.base import CallShape, ReasoningSplit
from gpu_worker.frontend.parsers.json_text import ObjectScanner
from gpu_worker.frontend.parsers.reader import CallReader, Reading

_START = "<|start|>assistant"
_CALL_END = "<|call|>"
_HEADER = regex.compile(
    r"(?:<\|start\|>)?+\s*+(?:assistant)?+\s*+(?:to=(?P<to>[^\s<]++)\s*+)?+<\|channel\|>(?P<channel>\w*+)"
    r"(?P<more>[^<]*+)(?:<\|constrain\|>[^<]*+)?+<\|message\|>"
)
_RECIPIENT = regex.compile(r"\bto=([^\s<]++)")
_END = regex.compile(r"<\|(?:end|call|return)\|>|(?=<\|(?:start|channel)\|>)")


class _Body(enum.Enum):
    """What the text after a header is."""

    REASONING = enum.auto()
    CONTENT = enum.auto()
    CALL = enum.auto()


class HarmonyReasoningParser:
    """Two messages of one kind are separated by an empty line. Text without any header is content."""

    name = "harmony"
    markers = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
    enclosure = ("<|channel|>analysis<|message|>", f"<|end|>{_START}")
    excluded = markers
    answer_opening = "<|channel|>final<|message|>"

    def __init__(self, prompt_text: str, continued: str = "") -> None:
        self._body: _Body | None = None  # None: within a header
        self._held = ""
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._is_new = False  # nothing of the current message has been given out
        self._seen: set[_Body] = set()
        self._arguments: ObjectScanner | None = None  # of the call being read, as long as they are JSON
        self._read_prompt(prompt_text)

    @property
    def is_open(self) -> bool:
        """Whether the text read last belongs to the reasoning."""
        return self._body is _Body.REASONING

    @staticmethod
    def reads(template: str) -> bool:
        return "<|channel|>" in template and "<|message|>" in template

    def push(self, text: str) -> ReasoningSplit:
        self._held += text
        while self._read_header() if self._body is None else self._read_body():
            pass
        return self._take()

    def flush(self) -> ReasoningSplit:
        """A header that was cut is dropped, unless it has no marker: then it is text after all."""
        held, self._held = self._held, ""
        if self._body is None:
            self._body = _Body.CONTENT
            held = "" if "<|" in held else held
        self._give(held)
        return self._take()

    def _read_prompt(self, prompt_text: str) -> None:
        """The answer may begin within a message: the prompt's last one, where a final message is continued."""
        _, found, begun = prompt_text.rpartition(_START)
        if found and (header := _HEADER.match(begun)) and not _END.search(begun, header.end()):
            self._body = _find_body(header)[0]
            self._is_new = False
        elif found:
            self._held = begun

    def _read_header(self) -> bool:
        header = _HEADER.match(self._held, partial=True)
        if header is not None and header.partial:
            return False
        self._is_new = True
        if header is None:
            self._body = _Body.CONTENT
            self._give(self._held[0])  # which might be that of a marker, and end the message again
            self._held = self._held[1:]
            return True
        self._body, recipient = _find_body(header)
        if self._body is _Body.CALL:
            self._content.append(f"<|channel|>commentary to={recipient}<|message|>")
            self._arguments = ObjectScanner()
        self._held = self._held[header.end() :]
        return True

    def _read_body(self) -> bool:
        if self._arguments is not None and not self._read_arguments(self._arguments):
            return False
        end = _END.search(self._held, partial=True)
        if end is None:
            self._give(self._held)
            self._held = ""
            return False
        self._give(self._held[: end.start()])
        if end.partial:
            self._held = self._held[end.start() :]
            return False
        if self._body is _Body.CALL:
            self._content.append(_CALL_END)
        self._body, self._held = None, self._held[end.end() :]
        return bool(self._held)

    def _read_arguments(self, scanner: ObjectScanner) -> bool:
        """Pass JSON on: a marker in one of its strings ends nothing. Returns whether it is over."""
        size = scanner.scan(self._held)
        self._give(self._held[:size])
        self._held = self._held[size:]
        if not scanner.is_closed and not scanner.is_malformed:
            return False
        self._arguments = None
        return True

    def _give(self, text: str) -> None:
        if not text or self._body is None:
            return
        parts = self._reasoning if self._body is _Body.REASONING else self._content
        if self._is_new and self._body in self._seen and self._body is not _Body.CALL:
            parts.append("\n\n")
        self._is_new = False
        self._seen.add(self._body)
        parts.append(text)

    def _take(self) -> ReasoningSplit:
        split = ReasoningSplit("".join(self._reasoning), "".join(self._content))
        self._reasoning, self._content = [], []
        return split


class HarmonyParser(CallReader):
    """One block for each call; arguments are streamed."""

    name = "harmony"
    markers = HarmonyReasoningParser.markers
    opening = regex.compile(r"<\|channel\|>commentary to=(?:functions\.)?+(?P<name>[^\s<]++)<\|message\|>")
    _brace = regex.compile(r"\s*+(?=\{)")
    _close = regex.compile(r"\s*+<\|call\|>")

    @staticmethod
    def reads(template: str, tokens: Collection[str] = ()) -> bool:
        return HarmonyReasoningParser.reads(template)

    @staticmethod
    def call_shape(name: str, template: str) -> CallShape:
        """The model ends its turn with a call: there is one."""
        before = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        return CallShape(before, separator=None, sample=f"<|channel|>commentary to=functions.{name}<|message|>")

    def read_block(self) -> Reading[None]:
        name = self.opened["name"]
        yield from self.match(self._brace)
        self.start_call(name)
        yield from self.stream_object()
        yield from self.match(self._close)


def _find_body(header: "regex.Match[str]") -> tuple[_Body, str]:
    """What follows a header, and whom it is for."""
    recipient = header["to"] or ""
    if not recipient and (found := _RECIPIENT.search(header["more"])):
        recipient = found[1]
    if recipient and recipient != "assistant":
        return _Body.CALL, recipient
    return (_Body.REASONING if header["channel"] == "analysis" else _Body.CONTENT), ""
