"""Events to the text completion wire format: chunks of a stream, or their fold into one object.

https://platform.openai.com/docs/api-reference/completions/object. The choices of several prompts stand in one
list: choice i of prompt p has the index p * n + i. Knows nothing of HTTP.
"""

import itertools
import math
import time
from typing import Any

from apps.core.http import encode_json
from apps.openai_api.encoders.parts import add_usage, encode_finish_reason, encode_usage, make_fingerprint
from apps.openai_api.schemas.completions import CompletionCall
from gpu_worker.protocol import Delta, Finished, TokenLogprob, Usage


class CompletionStreamEncoder:
    """Turns each event into the bytes of its server-sent events; the constant part of a chunk is encoded once."""

    def __init__(self, call: CompletionCall) -> None:
        self._head = b"data: " + encode_json(_make_head(call))[:-1]
        self._n = call.requests[0].n
        self._include_usage = call.include_usage
        self._num_open = len(call.requests)
        self._offsets = [0] * (self._n * len(call.requests))
        self._usage = Usage()
        self._end = b'}],"usage":null}\n\n' if call.include_usage else b"}]}\n\n"
        self._close = b',"logprobs":null,"finish_reason":null' + self._end

    def encode_delta(self, position: int, delta: Delta) -> bytes:
        """One chunk; nothing while tokens have not become text and no logprobs are asked for."""
        index = position * self._n + delta.index
        if delta.logprobs is None:
            return self._open(index) + encode_json(delta.text) + self._close if delta.text else b""
        logprobs = _make_logprobs(delta.logprobs, self._offsets[index])
        self._offsets[index] += sum(map(len, logprobs["tokens"]))
        tail = b',"logprobs":' + encode_json(logprobs) + b',"finish_reason":null'
        return self._open(index) + encode_json(delta.text) + tail + self._end

    def encode_finish(self, position: int, finished: Finished) -> bytes:
        """The last chunk of a choice and, after the last choice of all, the usage chunk where one is asked for."""
        reason = encode_json(encode_finish_reason(finished.reason))
        index = position * self._n + finished.index
        chunk = self._open(index) + b'"","logprobs":null,"finish_reason":' + reason + self._end
        if finished.last:
            self._usage = add_usage(self._usage, finished.usage)
            self._num_open -= 1
        if self._num_open == 0 and self._include_usage:
            chunk += self._head + b',"choices":[],"usage":' + encode_json(encode_usage(self._usage)) + b"}\n\n"
        return chunk

    def _open(self, index: int) -> bytes:
        return self._head + b',"choices":[{"index":%d,"text":' % index


class CompletionFold:
    """Gathers the same events into one completion object."""

    def __init__(self, call: CompletionCall) -> None:
        self._head = _make_head(call)
        self._num_generated = call.requests[0].n
        self._num_shown = call.n
        self._shows_logprobs = call.shows_logprobs
        self._choices = [_ChoiceFold() for _ in range(self._num_generated * len(call.requests))]
        self._usage = Usage()

    def add_delta(self, position: int, delta: Delta) -> None:
        """Append to its choice."""
        self._choices[position * self._num_generated + delta.index].add(delta)

    def add_finish(self, position: int, finished: Finished) -> None:
        """End a choice."""
        choice = self._choices[position * self._num_generated + finished.index]
        choice.finish_reason = encode_finish_reason(finished.reason)
        if finished.last:
            self._usage = add_usage(self._usage, finished.usage)

    def encode(self) -> bytes:
        """The whole answer as JSON. To be called after the last event."""
        n, choices = self._num_generated, self._choices
        groups = (choices[start : start + n] for start in range(0, len(choices), n))
        shown = [choice for group in groups for choice in _pick_best(group, self._num_shown)]
        made = [choice.make(index, self._shows_logprobs) for index, choice in enumerate(shown)]
        return encode_json({**self._head, "choices": made, "usage": encode_usage(self._usage)})


class _ChoiceFold:
    """One choice in the making."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] | None = None
        self.finish_reason: str | None = None

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; of no tokens, less than any."""
        logprobs = self._logprobs
        return sum(token.logprob for token in logprobs) / len(logprobs) if logprobs else -math.inf

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        if delta.logprobs is not None:
            self._logprobs = (self._logprobs or []) + delta.logprobs

    def make(self, index: int, shows_logprobs: bool) -> dict[str, Any]:
        logprobs = self._logprobs if shows_logprobs else None
        return {
            "index": index,
            "text": "".join(self._texts),
            "logprobs": None if logprobs is None else _make_logprobs(logprobs, 0),
            "finish_reason": self.finish_reason,
        }


def _pick_best(choices: list[_ChoiceFold], count: int) -> list[_ChoiceFold]:
    """The likeliest of the choices of one prompt, best first; where all are shown, in their order."""
    if len(choices) == count:
        return choices
    return sorted(choices, key=lambda choice: choice.mean_logprob, reverse=True)[:count]


def _make_head(call: CompletionCall) -> dict[str, Any]:
    model = call.requests[0].model
    return {
        "id": call.id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": make_fingerprint(model),
    }


def _make_logprobs(logprobs: list[TokenLogprob], offset: int) -> dict[str, Any]:
    """The legacy shape: parallel lists. `offset` is where the first token starts, in characters of the text."""
    tokens = [token.token for token in logprobs]
    offsets = list(itertools.accumulate(map(len, tokens[:-1]), initial=offset))
    tops: list[dict[str, float] | None] = [
        {top.token: top.logprob for top in token.top} | {token.token: token.logprob} if token.top else None
        for token in logprobs
    ]
    return {
        "tokens": tokens,
        "token_logprobs": [None if math.isnan(token.logprob) else token.logprob for token in logprobs],
        "top_logprobs": tops if any(top is not None for top in tops) else None,
        "text_offset": offsets,
    }
