"""Events to the chat completion wire format: chunks of a stream, or their fold into one object.

https://platform.openai.com/docs/api-reference/chat/object. Reasoning travels as `reasoning_content`, as DeepSeek,
vLLM and transformers serve name it. Knows nothing of HTTP.
"""

import time
from typing import Any

from apps.core.http import encode_json
from apps.inference.requests import GenerationRequest
from apps.openai_api.encoders.chat_calls import CallWriter, Piece, add_piece
from apps.openai_api.encoders.parts import encode_finish_reason, encode_logprobs, encode_usage, make_fingerprint
from gpu_worker.protocol import Delta, Finished, TokenLogprob, Usage


class ChatStreamEncoder:
    """Turns each event of one request into the bytes of its server-sent events.

    The constant part of a chunk is encoded once; a text delta then costs one string encoding:

        data: {"id":…,"model":…,"choices":[{"index":0,"delta": | {"content":"…"} | ,"logprobs":null,…}]}
        └────────────────── _open(index) ────────────────────┘                   └────── _close ──────┘
    """

    def __init__(
        self, request: GenerationRequest, *, include_usage: bool, customs: frozenset[str] = frozenset()
    ) -> None:
        """`customs`: the names of custom tools."""
        head = {
            "id": request.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": make_fingerprint(request.model),
        }
        self._head = b"data: " + encode_json(head)[:-1]
        self._request = request
        self._include_usage = include_usage
        self._calls = [CallWriter(customs) for _ in range(request.n)]
        self._opens = [self._head + b',"choices":[{"index":%d,"delta":' % index for index in range(request.n)]
        # OpenAI: with include_usage every chunk but the last has a null usage, without it none has the key.
        self._end = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._close = b',"logprobs":null,"finish_reason":null' + self._end

    def encode_start(self) -> bytes:
        """The first chunk of every choice: its role alone."""
        return b"".join(open_ + b'{"role":"assistant"}' + self._close for open_ in self._opens)

    def encode_delta(self, delta: Delta) -> bytes:
        """One chunk, or one for each piece of a tool call: clients look at the first piece of a chunk alone.

        Nothing while tokens have not become text and no logprobs are asked for.
        """
        if delta.text and not delta.reasoning and delta.tool_calls is None and delta.logprobs is None:
            return self._opens[delta.index] + b'{"content":' + encode_json(delta.text) + b"}" + self._close
        calls = self._calls[delta.index].write(delta.tool_calls)
        return self._encode_pieces(delta, _make_delta(delta, calls[:1])) + self._encode_calls(delta.index, calls[1:])

    def _encode_calls(self, index: int, calls: list[Piece]) -> bytes:
        pieces = (encode_json({"tool_calls": [call]}) for call in calls)
        return b"".join(self._opens[index] + piece + self._close for piece in pieces)

    def _encode_pieces(self, delta: Delta, piece: dict[str, Any]) -> bytes:
        if delta.logprobs is None:
            return self._opens[delta.index] + encode_json(piece) + self._close if piece else b""
        logprobs = b',"logprobs":' + encode_json(_make_logprobs(delta.logprobs)) + b',"finish_reason":null'
        return self._opens[delta.index] + encode_json(piece or {"content": ""}) + logprobs + self._end

    def encode_finish(self, finished: Finished) -> bytes:
        """The last chunk of a choice and, after the last choice, the usage chunk where one is asked for."""
        reason = encode_json(_find_finish_reason(self._request, finished))
        chunk = self._encode_calls(finished.index, self._calls[finished.index].end())
        chunk += self._opens[finished.index] + b'{},"logprobs":null,"finish_reason":' + reason + self._end
        if finished.last and self._include_usage:
            chunk += self._head + b',"choices":[],"usage":' + encode_json(encode_usage(finished.usage)) + b"}\n\n"
        return chunk


class ChatFold:
    """Gathers the same events into one chat completion object."""

    def __init__(self, request: GenerationRequest, customs: frozenset[str] = frozenset()) -> None:
        """`customs`: the names of custom tools."""
        self._request = request
        self._created = int(time.time())
        self._choices = [_ChoiceFold(index, customs) for index in range(request.n)]
        self._usage = Usage()

    def add_delta(self, delta: Delta) -> None:
        """Append to its choice."""
        self._choices[delta.index].add(delta)

    def add_finish(self, finished: Finished) -> None:
        """End a choice."""
        self._choices[finished.index].end(_find_finish_reason(self._request, finished))
        if finished.last:
            self._usage = finished.usage

    def encode(self) -> bytes:
        """The whole answer as JSON. To be called after the last event."""
        return encode_json(
            {
                "id": self._request.id,
                "object": "chat.completion",
                "created": self._created,
                "model": self._request.model,
                "system_fingerprint": make_fingerprint(self._request.model),
                "choices": [choice.make() for choice in self._choices],
                "usage": encode_usage(self._usage),
            }
        )


class _ChoiceFold:
    """One choice in the making."""

    def __init__(self, index: int, customs: frozenset[str]) -> None:
        self._index = index
        self._calls = CallWriter(customs)
        self._texts: list[str] = []
        self._reasonings: list[str] = []
        self._tool_calls: list[Piece] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._reasonings.append(delta.reasoning)
        for piece in self._calls.write(delta.tool_calls):
            add_piece(self._tool_calls, piece)
        if delta.logprobs is not None:
            self._logprobs = (self._logprobs or []) + delta.logprobs

    def end(self, finish_reason: str) -> None:
        self._finish_reason = finish_reason
        for piece in self._calls.end():
            add_piece(self._tool_calls, piece)

    def make(self) -> dict[str, Any]:
        text, reasoning = "".join(self._texts), "".join(self._reasonings)
        # OpenAI: null beside tool calls when nothing was said.
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if self._tool_calls else "")}
        message["refusal"] = None
        if reasoning:
            message["reasoning_content"] = reasoning
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        return {
            "index": self._index,
            "message": message,
            "logprobs": None if self._logprobs is None else _make_logprobs(self._logprobs),
            "finish_reason": self._finish_reason,
        }


def _find_finish_reason(request: GenerationRequest, finished: Finished) -> str:
    """OpenAI answers "stop" where a call of a named function was asked for, and "tool_calls" for any other call."""
    is_named = isinstance(request.tool_choice, dict)
    return "stop" if is_named and finished.reason == "tool_calls" else encode_finish_reason(finished.reason)


def _make_delta(delta: Delta, calls: list[Piece]) -> dict[str, Any]:
    piece: dict[str, Any] = {}
    if delta.reasoning:
        piece["reasoning_content"] = delta.reasoning
    if delta.text:
        piece["content"] = delta.text
    if calls:
        piece["tool_calls"] = calls
    return piece


def _make_logprobs(logprobs: list[TokenLogprob]) -> dict[str, Any]:
    return {"content": encode_logprobs(logprobs), "refusal": None}
