"""A request between its arrival and its last event: engine outputs in, protocol events out.

Event loop thread only, but for `Choice.check_stop`, which the engine calls in its own.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.frontend.answer import AnswerStream, Piece
from gpu_worker.frontend.logprobs import describe_logprobs, describe_prompt
from gpu_worker.frontend.prepare import PreparedChoice, PreparedRequest
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import (
    Delta,
    Failed,
    FailureCode,
    Finished,
    FinishReason,
    FromWorker,
    Generate,
    Started,
    Timing,
    Usage,
)
from gpu_worker.server.adapters import HeldAdapter
from gpu_worker.server.connection import Connection

_EMPTY = Piece()


class Choice:
    """One of a request's `n` answers.

    Text work is done in the event loop's thread, where it overlaps with the next forward pass. Only
    where text can end the answer does the engine thread do it (`check_stop`), and leaves the pieces
    here: the sequence then ends at exactly the right token.
    """

    def __init__(self, index: int, request: Request, stream: AnswerStream, tokenizer: TextTokenizer) -> None:
        self.index = index
        self.tokenizer = tokenizer
        self.request = request
        self.stream = stream
        self.num_tokens = len(request.output_token_ids)  # sent, those of a resume included
        self.is_finished = False
        self._num_checked = self.num_tokens
        self._pieces: deque[Piece] = deque()

    def check_stop(self, request: Request) -> FinishReason | None:
        """The engine's `stop_check`. A resumed request is asked about its last old token too: known already."""
        if len(request.output_token_ids) <= self._num_checked:
            return None
        self._num_checked += 1
        piece = self.stream.advance(request.output_token_ids[-1])
        self._pieces.append(piece)
        return piece.finish

    def read(self, output: TokenOutput) -> Piece:
        """What the output adds to the answer, with everything that was held back if it is the last."""
        piece = _EMPTY
        if output.token_id is not None:
            self.num_tokens += 1
            piece = self._pieces.popleft() if self._pieces else self.stream.advance(output.token_id)
        if output.finish_reason is None:
            return piece
        rest = self.stream.flush()
        calls = (piece.tool_calls or []) + (rest.tool_calls or [])
        return Piece(piece.text + rest.text, piece.reasoning + rest.reasoning, calls or None)


@dataclass(eq=False)
class ActiveRequest:
    """A client request and its choices. `is_closed` once nothing may be sent for it any more."""

    id: str
    connection: Connection
    num_choices: int
    arrival_s: float = field(default_factory=time.monotonic)
    is_closed: bool = False
    num_prompt_tokens: int = 0
    choices: list[Any] = field(default_factory=list)  # of `Choice`, or what another kind has in its place
    queue_position: int | None = None  # as last told
    adapter: HeldAdapter | None = None  # handed back when it is closed
    held_bytes: int = 0  # of a recording: its file, then its samples

    def begin(self, message: Any, prepared: Any) -> list[FromWorker]:
        """Make the engine's requests, one for each choice. Returns what is to be said before any of them runs.

        Here of a `Generate` and its `PreparedRequest`; other kinds of requests override it.
        """
        self.num_prompt_tokens = len(prepared.prompt_token_ids)
        for index, source in enumerate(prepared.choices):
            self.choices.append(self._build_choice(index, message, prepared, source))
        events: list[FromWorker] = [Started(self.id, self.num_prompt_tokens)]
        if prepared.echo_text:
            # A choice that is resumed has tokens, before which the echo was sent.
            fresh = [choice.index for choice in self.choices if not choice.num_tokens]
            events += [Delta(id=self.id, index=index, text=prepared.echo_text, is_prompt=True) for index in fresh]
        for choice, source in zip(self.choices, prepared.choices, strict=True):
            if source.finish_reason is not None:
                events.append(self.finish(choice, source.finish_reason))
        return events

    def _build_choice(self, index: int, message: Generate, prepared: PreparedRequest, source: PreparedChoice) -> Choice:
        request = Request(
            id=f"{self.id}/{index}",
            prompt_token_ids=prepared.prompt_token_ids,
            sampling=message.sampling,
            max_tokens=prepared.max_tokens,
            choice_index=index,
            eos_token_ids=prepared.eos_token_ids,
            user=message.user,
            weight=message.weight,
            priority=message.priority,
            cache_salt=self.adapter.salt(message.cache_salt) if self.adapter else message.cache_salt,
            grammar=source.grammar,
            output_token_ids=source.token_ids,
            arrival_s=self.arrival_s,
            media=prepared.media,
            adapter=self.adapter.weights if self.adapter else None,
            prompt_logprobs=None if source.token_ids else prepared.prompt_logprobs,
        )
        choice = Choice(index, request, source.stream, prepared.tokenizer)
        if prepared.ends_by_text:
            request.stop_check = choice.check_stop
        return choice

    def read(self, choice: Any, output: Any) -> list[FromWorker]:
        """The events of one engine output."""
        piece = choice.read(output)
        events: list[FromWorker] = []
        if output.prompt_logprobs is not None:
            told = describe_prompt(choice.tokenizer, output)
            events.append(Delta(id=self.id, index=choice.index, logprobs=told, is_prompt=True))
        if output.token_id is not None or piece != _EMPTY:
            logprobs = None
            if output.logprobs is not None and output.token_id is not None:
                logprobs = [describe_logprobs(choice.tokenizer, output.token_id, output.logprobs)]
            events.append(
                Delta(
                    id=self.id,
                    index=choice.index,
                    text=piece.text,
                    reasoning=piece.reasoning,
                    tool_calls=piece.tool_calls,
                    token_ids=[] if output.token_id is None else [output.token_id],
                    logprobs=logprobs,
                )
            )
        if output.finish_reason is not None:
            events.append(self.finish(choice, output.finish_reason))
        return events

    def finish(self, choice: Choice, reason: FinishReason) -> Finished:
        """End one choice; the last one closes the request and carries the totals."""
        choice.is_finished = True
        self.is_closed = all(other.is_finished for other in self.choices)
        return Finished(
            id=self.id,
            index=choice.index,
            reason=choice.stream.final_reason(reason),
            last=self.is_closed,
            stop=choice.stream.stop,
            usage=self.usage() if self.is_closed else Usage(),
            timing=self.timing() if self.is_closed else Timing(),
        )

    def abort_unstarted(self) -> list[FromWorker]:
        """The end of a request that was aborted before the engine saw it: no choice has any token."""
        self.is_closed = True
        last = self.num_choices - 1
        return [Finished(id=self.id, index=i, reason="abort", last=i == last) for i in range(self.num_choices)]

    def fail(self, code: FailureCode, message: str, param: str | None = None) -> Failed:
        """End the whole request with an error."""
        self.is_closed = True
        return Failed(id=self.id, code=code, message=message, param=param, usage=self.usage(), timing=self.timing())

    def usage(self) -> Usage:
        """Tokens so far. The prompt counts once; it was cached as far as it was for the first choice."""
        cached = min((c.request.num_cached_tokens for c in self.choices if c.request.first_scheduled_s), default=0)
        return Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=sum(choice.num_tokens for choice in self.choices),
            cached_tokens=min(cached, self.num_prompt_tokens),
            reasoning_tokens=sum(choice.stream.num_reasoning_tokens for choice in self.choices),
        )

    def timing(self) -> Timing:
        """Seconds so far, from the first choice that reached each stage."""
        now = time.monotonic()
        requests = [choice.request for choice in self.choices]
        scheduled_s = min((r.first_scheduled_s for r in requests if r.first_scheduled_s is not None), default=now)
        first_token_s = min((r.first_token_s for r in requests if r.first_token_s is not None), default=now)
        return Timing(
            queue_s=scheduled_s - self.arrival_s,
            prefill_s=max(first_token_s - scheduled_s, 0.0),
            decode_s=now - first_token_s,
            device_s=sum(r.device_s for r in requests),
        )
