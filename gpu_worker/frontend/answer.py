"""One choice's way from tokens to deltas: detokenizer, stop strings, reasoning and tool-call parsers in a row.

Knows nothing of engines, connections or time: the output is a function of the tokens alone, which is
what lets a resumed request replay the tokens its client has seen.
"""

from dataclasses import dataclass
from typing import NamedTuple

from gpu_worker.frontend.detokenize import Detokenizer
from gpu_worker.frontend.parsers.base import ReasoningParser, ToolCallParser
from gpu_worker.frontend.stop import StopMatcher
from gpu_worker.protocol import FinishReason, ToolCallDelta


class Piece(NamedTuple):
    """What one token (or the end) adds to the answer. `finish` is set on the token that must be the last."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] | None = None
    finish: FinishReason | None = None


_EMPTY = Piece()


@dataclass(frozen=True)
class EndRules:
    """What ends an answer, beside its length."""

    end_token_ids: frozenset[int] = frozenset()  # end it and are not shown
    stop_token_ids: frozenset[int] = frozenset()  # likewise, and are named in `stop`
    min_tokens: int = 0  # stop strings count after this many tokens
    single_call: bool = False  # the first complete tool call ends it


class AnswerStream:
    """State of one answer. One thread at a time."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        rules: EndRules,
        matcher: StopMatcher | None = None,
        reasoning: ReasoningParser | None = None,
        tool_calls: ToolCallParser | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._rules = rules
        self._matcher = matcher
        self._reasoning = reasoning
        self._tool_calls = tool_calls
        self._end_token_ids = rules.end_token_ids | rules.stop_token_ids
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.stop: str | int | None = None  # the stop string or stop token that ended the answer

    def advance(self, token_id: int) -> Piece:
        """Read the next token. After a piece with `finish` only `flush` may follow."""
        self.num_tokens += 1
        if token_id in self._end_token_ids:
            self.stop = token_id if token_id in self._rules.stop_token_ids else None
            return Piece(finish="stop")
        text = self._detokenizer.push(token_id)
        if self._matcher is not None and self.num_tokens > self._rules.min_tokens:
            text, self.stop = self._matcher.push(text)
        piece = self._parse(text)
        if self.stop is not None:
            return piece._replace(finish="stop")
        if self._rules.single_call and self._tool_calls is not None and self._tool_calls.num_complete:
            return piece._replace(finish="tool_calls")
        return piece

    def flush(self) -> Piece:
        """Everything held back, at the end of the answer."""
        text = ""
        if self.stop is None or isinstance(self.stop, int):
            text = self._detokenizer.flush()
            if self._matcher is not None:
                text = self._matcher.flush() + text
        piece = self._parse(text)
        reasoning, content = self._reasoning.flush() if self._reasoning is not None else ("", "")
        content, calls = self._call_parse(content)
        if self._tool_calls is not None:
            rest, more_calls = self._tool_calls.flush()
            content, calls = content + rest, calls + more_calls
        calls = (piece.tool_calls or []) + calls
        return Piece(piece.text + content, piece.reasoning + reasoning, calls or None)

    def final_reason(self, reason: FinishReason) -> FinishReason:
        """What the client is told: a natural end after a well-formed call is "tool_calls". Call after `flush`."""
        made_call = self._tool_calls is not None and self._tool_calls.num_complete > 0
        return "tool_calls" if reason == "stop" and made_call else reason

    def _parse(self, text: str) -> Piece:
        if self._reasoning is None:
            if not text:
                return _EMPTY
            reasoning = ""
        else:
            was_open = self._reasoning.is_open
            reasoning, text = self._reasoning.push(text)
            self.num_reasoning_tokens += was_open or self._reasoning.is_open
        text, calls = self._call_parse(text)
        return Piece(text, reasoning, calls or None)

    def _call_parse(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        if self._tool_calls is None or not text:
            return text, []
        return self._tool_calls.push(text)
