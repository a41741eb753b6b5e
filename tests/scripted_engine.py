"""What the scripted worker says and when: its stand-in for an engine, one for each connection. Knows no socket."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

from gpu_worker.protocol import (
    Abort,
    Delta,
    Detokenize,
    Detokenized,
    Failed,
    FailureCode,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Ping,
    Pong,
    Progress,
    Started,
    Timing,
    Tokenize,
    Tokenized,
    ToWorker,
    Usage,
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said to one request: `deltas` in order, one a step, the same for each of its choices."""

    deltas: tuple[Delta, ...] = tuple(Delta("", text=text) for text in ("Hel", "lo", ", ", "wor", "ld", "!"))
    prompt_tokens: int = 5
    cached_tokens: int = 0
    reason: FinishReason = "stop"
    stop: str | int | None = None
    queue_positions: tuple[int, ...] = ()  # Progress events before the first delta, one a step
    hold_after: int | None = None  # after so many deltas nothing more comes until `release()`
    fail: FailureCode | None = None  # fails with this ...
    fail_after: int | None = None  # ... after so many deltas; None: instead of Started
    fail_message: str = "scripted failure"
    fail_param: str | None = None

    @classmethod
    def of(cls, *texts: str, **fields: object) -> Self:
        """One delta, and one token, for each text."""
        return cls(deltas=tuple(Delta("", text=text) for text in texts), **fields)  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """All that a client should have seen in the end."""
        return "".join(delta.text for delta in self.deltas)


@dataclass(eq=False)
class _Sequence:
    """One choice of one request, on its way."""

    message: Generate
    answer: Answer
    index: int
    num_sent: int = 0
    positions: list[int] = field(default_factory=list)


class ScriptedEngine:
    """The requests of one connection. `script` decides what is said to each."""

    def __init__(self, script: Callable[[Generate], Answer]) -> None:
        self.requests: dict[str, list[_Sequence]] = {}
        self._script = script
        self._usage: dict[str, Usage] = {}

    def release(self) -> None:
        """Let everything that is held go on to its end."""
        for sequences in self.requests.values():
            for sequence in sequences:
                sequence.answer = replace(sequence.answer, hold_after=None)

    def step(self) -> list[FromWorker]:
        """One token of every running sequence; nothing when all of them are held or done."""
        events: list[FromWorker] = []
        for request_id in list(self.requests):
            self._step(request_id, events)
        return events

    def take(self, message: ToWorker) -> list[FromWorker]:
        """A message from the web process, and what is said to it at once."""
        match message:
            case Ping(nonce):
                return [Pong(nonce, num_running=len(self.requests))]
            case Abort(request_id):
                if self.requests.pop(request_id, None) is None:
                    return []
                return [Finished(request_id, reason="abort", usage=self._usage.pop(request_id))]
            case Generate():
                return self._begin(message)
            case Tokenize(id=request_id):
                token_ids = list(range(self._script(message.request).prompt_tokens))
                return [Tokenized(request_id, len(token_ids), 4096, token_ids if message.with_tokens else [])]
            case Detokenize(request_id, token_ids):
                return [Detokenized(request_id, " ".join(map(str, token_ids)))]

    def _begin(self, message: Generate) -> list[FromWorker]:
        answer = self._script(message)
        if answer.fail and answer.fail_after is None:
            return [Failed(message.id, answer.fail, answer.fail_message, answer.fail_param)]
        sent = {choice.index: choice.token_ids for choice in message.resume or []}
        sequences = []
        for index in range(message.n):
            already = sent.get(index, [])
            assert already == list(range(1, len(already) + 1)), f"resumed with tokens that were never sent: {already}"
            sequences.append(_Sequence(message, answer, index, len(already), list(answer.queue_positions)))
        self.requests[message.id] = sequences
        self._usage[message.id] = Usage(
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=sum(sequence.num_sent for sequence in sequences),
        )
        return [Started(message.id, answer.prompt_tokens)]

    def _step(self, request_id: str, events: list[FromWorker]) -> None:
        sequences = self.requests[request_id]
        for sequence in list(sequences):
            answer = sequence.answer
            if sequence.positions:
                events.append(Progress(request_id, sequence.positions.pop(0)))
                continue
            if answer.fail and sequence.num_sent == answer.fail_after:
                del self.requests[request_id]
                events.append(Failed(request_id, answer.fail, answer.fail_message, answer.fail_param))
                return
            if sequence.num_sent == answer.hold_after:
                continue
            if sequence.num_sent < len(answer.deltas):
                events.append(self._next_delta(sequence))
            if sequence.num_sent >= len(answer.deltas) and answer.fail_after != len(answer.deltas):
                sequences.remove(sequence)
                events.append(self._finish(sequence, last=not sequences))

    def _next_delta(self, sequence: _Sequence) -> Delta:
        usage = self._usage[sequence.message.id]
        self._usage[sequence.message.id] = msgspec.structs.replace(usage, completion_tokens=usage.completion_tokens + 1)
        delta = sequence.answer.deltas[sequence.num_sent]
        sequence.num_sent += 1
        return Delta(
            sequence.message.id,
            sequence.index,
            delta.text,
            delta.reasoning,
            delta.tool_calls,
            [sequence.num_sent],
            delta.logprobs,
        )

    def _finish(self, sequence: _Sequence, *, last: bool) -> Finished:
        answer, request_id = sequence.answer, sequence.message.id
        if not last:
            return Finished(request_id, answer.reason, sequence.index, last=False, stop=answer.stop)
        del self.requests[request_id]
        timing = Timing(queue_s=0.001, prefill_s=0.002, decode_s=0.003, device_s=0.004)
        usage = self._usage.pop(request_id)
        return Finished(request_id, answer.reason, sequence.index, stop=answer.stop, usage=usage, timing=timing)
