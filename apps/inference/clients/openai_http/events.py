"""The chunks of an OpenAI-compatible stream as our deltas. Pure: one reader for each answer; knows no connection.

Token ids are not known here. So that tokens are counted while they come, each is a delta's token of the id UNKNOWN:
as many as the server says, where it counts as it goes, else one for each chunk. The usage that the server sends at the
end is the one that counts.
"""

from typing import Any

import msgspec

from apps.core.ids import new_id
from gpu_worker.protocol import Delta, Finished, FinishReason, TokenLogprob, ToolCallDelta, TopLogprob, Usage

UNKNOWN = -1
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "abort": "abort",
    # TGI's
    "eos_token": "stop",
    "stop_sequence": "stop",
}


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Piece(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None  # DeepSeek's, SGLang's and our name
    reasoning: str | None = None  # vLLM's and OpenRouter's
    refusal: str | None = None
    tool_calls: list[_Call] | _Call | None = None


class _Top(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Token(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[_Token] | None = None
    # of text completions
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    delta: _Piece | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class UsageObject(msgspec.Struct, frozen=True):
    """OpenAI's `usage`."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    reasoning_tokens: int | None = None  # SGLang's place for it

    def read(self) -> Usage:
        """The same as ours."""
        details = self.completion_tokens_details or _CompletionDetails()
        return Usage(
            prompt_tokens=self.prompt_tokens or 0,
            completion_tokens=self.completion_tokens or 0,
            cached_tokens=(self.prompt_tokens_details or _PromptDetails()).cached_tokens or 0,
            reasoning_tokens=details.reasoning_tokens or self.reasoning_tokens or 0,
        )


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: UsageObject | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class ErrorEvent(Exception):
    """The server says in the middle of a stream that it failed."""


class AnswerReader:
    """One answer of `num_choices` choices, as it grows."""

    def __init__(self, request_id: str, num_choices: int) -> None:
        self.usage: Usage | None = None  # the last that was said
        self.has_output = False
        self._id = request_id
        self._num_choices = num_choices
        self._num_counted = 0
        self._ended: dict[int, Finished] = {}
        self._calls: dict[int, dict[int, int]] = {}  # of a choice: the server's index of a call -> ours

    @property
    def is_whole(self) -> bool:
        """Whether every choice has ended."""
        return len(self._ended) == self._num_choices

    def read(self, data: bytes) -> list[Delta | Finished]:
        """The events of one chunk. Raises ErrorEvent, msgspec.MsgspecError, or ValueError for what is no chunk."""
        chunk = _decoder.decode(data)
        if chunk.error is not None:
            raise ErrorEvent
        if chunk.usage is not None and chunk.usage.prompt_tokens is not None:
            self.usage = chunk.usage.read()
        events: list[Delta | Finished] = []
        for choice in chunk.choices:
            self._read_choice(choice, events)
        return events

    def finish(self) -> Finished:
        """The end of the last choice, with the usage of all. To be called when `is_whole`."""
        last = list(self._ended.values())[-1]
        usage = self.usage or Usage(completion_tokens=self._num_counted)
        return msgspec.structs.replace(last, last=True, usage=usage)

    def _read_choice(self, choice: _Choice, events: list[Delta | Finished]) -> None:
        if not 0 <= choice.index < self._num_choices:
            raise ValueError(f"a choice of index {choice.index}, of {self._num_choices}")
        if choice.index in self._ended:
            return
        piece = choice.delta or _Piece(content=choice.text)
        text = (piece.content or "") + (piece.refusal or "")
        reasoning = piece.reasoning_content or piece.reasoning or ""
        calls = self._read_calls(choice.index, piece.tool_calls) if piece.tool_calls else None
        logprobs = read_logprobs(choice.logprobs) if choice.logprobs is not None else None
        if text or reasoning or calls or logprobs:
            self.has_output = True
            tokens = [UNKNOWN] * self._count(len(logprobs or ()))
            events.append(Delta(self._id, choice.index, text, reasoning, calls, tokens, logprobs or None))
        if choice.finish_reason:
            self._end(choice, events)

    def _count(self, num_logprobs: int) -> int:
        """Tokens that are new with this delta: by the server's own count, by its logprobs, else one."""
        said = self.usage.completion_tokens - self._num_counted if self.usage is not None else num_logprobs or 1
        num_new = max(said, 0)
        self._num_counted += num_new
        return num_new

    def _end(self, choice: _Choice, events: list[Delta | Finished]) -> None:
        reason = _REASONS.get(choice.finish_reason or "", "stop")
        if reason == "stop" and self._calls.get(choice.index):  # as OpenAI answers to a call of a named function
            reason = "tool_calls"
        finished = Finished(self._id, reason, choice.index, last=False, stop=choice.stop_reason)
        self._ended[choice.index] = finished
        if not self.is_whole:  # the last one waits for the usage
            events.append(finished)

    def _read_calls(self, choice: int, given: list[_Call] | _Call) -> list[ToolCallDelta]:
        """With indices from 0 on, and a name and an id with the first piece of each, whatever the server writes."""
        known = self._calls.setdefault(choice, {})
        pieces = []
        for position, call in enumerate(given if isinstance(given, list) else [given]):
            function = call.function or _Function()
            arguments = function.arguments or ""
            if not isinstance(arguments, str):
                arguments = msgspec.json.encode(arguments).decode()
            index = position if call.index is None else call.index
            if index in known:
                pieces.append(ToolCallDelta(known[index], arguments=arguments))
                continue
            known[index] = len(known)
            call_id = call.id or new_id("call_")
            pieces.append(ToolCallDelta(known[index], call_id, function.name or "", arguments))
        return pieces


def read_logprobs(given: _Logprobs) -> list[TokenLogprob]:
    """Of chat completions, or of text completions, whose alternatives have no order of their own."""
    if given.content is not None:
        return [
            TokenLogprob(UNKNOWN, token.token, token.logprob, _get_bytes(token), _read_top(token.top_logprobs or []))
            for token in given.content
        ]
    tokens, numbers = given.tokens or [], given.token_logprobs or []
    tops = given.top_logprobs or [None] * len(tokens)
    return [
        TokenLogprob(UNKNOWN, token, number or 0.0, token.encode(), _read_top(_list_top(top or {})))
        for token, number, top in zip(tokens, numbers, tops, strict=False)
    ]


def _list_top(top: dict[str, float]) -> list[_Top]:
    return [_Top(token, logprob) for token, logprob in sorted(top.items(), key=lambda item: -item[1])]


def _read_top(top: list[_Top]) -> list[TopLogprob]:
    return [TopLogprob(UNKNOWN, token.token, token.logprob, _get_bytes(token)) for token in top]


def _get_bytes(token: _Token | _Top) -> bytes:
    return token.token.encode(errors="replace") if token.bytes is None else bytes(token.bytes)
