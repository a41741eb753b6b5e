"""One request's answer as it grows, over however many replicas: what to ask next, what to pass on, what to record."""

import asyncio
import time
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from apps.core.errors import ServiceError
from apps.inference import metrics
from apps.inference.clients.base import LinkLost, ReplicaLink, RequestStream, SlowConsumer, StreamEvent
from apps.inference.echo import EchoFilter
from apps.inference.events import Event, Waiting
from apps.inference.requests import AnyRequest, GenerationRequest, PoolingRequest, TranscriptionRequest
from apps.inference.sampling import resolve_sampling
from apps.inference.submission import explain_encoding, make_generate
from apps.quotas.permits import Permit
from apps.registry.directory import ModelSpec
from apps.usage.entry import Entry
from apps.usage.models import UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import (
    Delta,
    Finished,
    ModelInfo,
    Progress,
    ResumeChoice,
    Sampling,
    Started,
    Submission,
    TranscriptPiece,
    TranscriptResume,
    Usage,
    Vectors,
)


class Answer:
    """Made when a request is admitted: opens its line in the ledger, and settles it when it is left, as by `with`.

    Used by one task. Leaving awaits nothing: a generator may also be closed by the garbage collector or with its event
    loop.
    """

    def __init__(self, request: AnyRequest, model: ModelSpec, permit: Permit | None = None) -> None:
        self.has_started = False
        self.has_output = False
        self.is_complete = False
        self.entry = Entry(
            id=request.id,
            caller=request.caller,
            model_name=model.name,
            revision=model.revision,
            endpoint=request.endpoint,
            streamed=request.stream,
        )
        self._request = request
        self._model = model
        self._sampling: Sampling | None = None
        self._num_attempts = 0
        self._link: ReplicaLink | None = None
        self._stream: RequestStream | None = None
        num_choices = request.n if isinstance(request, GenerationRequest) else 1
        self._token_ids: list[list[int]] = [[] for _ in range(num_choices)]
        self._echo = EchoFilter(num_choices)
        self._transcript: TranscriptPiece | None = None  # the last that was passed on
        self._finished: set[int] = set()
        self._permit = permit
        recorder.open(self.entry)
        if permit is not None:
            permit.hand_over()
        metrics.IN_FLIGHT.inc()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        has_left = isinstance(error, asyncio.CancelledError | GeneratorExit)
        if error is None or (has_left and self.is_complete):  # who leaves after the last event has had everything
            status = UsageStatus.OK
        else:
            status = UsageStatus.CANCELLED if has_left or isinstance(error, SlowConsumer) else UsageStatus.ERROR
        self._close(status, error if isinstance(error, ServiceError) else None)

    @property
    def lacks_row(self) -> bool:
        """Whether what is told next would reach the client before the ledger knows of it.

        An answer that is not streamed is out with its last event: by then a short one has its line and its end
        written together.
        """
        return not self.entry.is_durable and (self.has_output if self._request.stream else self.is_complete)

    def submit_to(self, link: ReplicaLink) -> RequestStream:
        """Begin the next attempt, at a link that is ready: the request, and the tokens that were already passed on.

        Raises PayloadTooLarge, InvalidRequest, or InternalError when the model's settings are not valid.
        """
        info = link.info
        if info is None:  # lost since it was chosen
            raise LinkLost
        self._num_attempts += 1
        self._echo.begin_attempt()
        self.entry.replica_id = link.replica_id
        self.entry.revision = self._model.revision or ("" if self._model.adapter else info.revision)
        with explain_encoding():
            self._stream = link.submit(self._make_message(info))
        self._link = link
        return self._stream

    def take(self, event: StreamEvent) -> Event | None:
        """What the client is to be told of it: None where a resumed attempt says again what was said before."""
        if isinstance(event, Delta):
            if not self.has_output:
                self._note_output()
            self._token_ids[event.index] += event.token_ids
            if event.transcript is not None:
                self._transcript = event.transcript
            self.entry.completion_tokens += len(event.token_ids)
            return self._echo.take(event) if event.is_prompt else event
        if isinstance(event, Vectors):
            self._note_output()
            return event
        if isinstance(event, Started):
            if self.has_started:
                return None
            self.has_started = True
            self.entry.prompt_tokens = event.prompt_tokens
            return event
        if isinstance(event, Progress):
            return None if self.has_output else Waiting("queued", queue_position=event.queue_position)
        return self._finish(event) if isinstance(event, Finished) else None

    def _close(self, status: UsageStatus, error: ServiceError | None) -> None:
        """Stop what still runs and settle, now or as soon as the engine has said its final counts. Never blocks."""
        settle = partial(self._settle, status, error)
        if self._link is None or self._stream is None:
            settle(None)
        else:
            self._link.abort(self._stream, settle)

    def _settle(self, status: UsageStatus, error: ServiceError | None, usage: Usage | None) -> None:
        self._record_end(status, (error.code or error.type) if error else "", usage)
        if self._permit is not None:
            self._permit.settle(self.entry)
        metrics.IN_FLIGHT.dec()
        metrics.observe(self.entry)

    def _record_end(self, status: UsageStatus, error_code: str, usage: Usage | None) -> None:
        """With the engine's own counts where it said them, else with what was seen here. Only the first end counts."""
        entry = self.entry
        if usage is not None and usage.prompt_tokens:
            entry.prompt_tokens = usage.prompt_tokens
            entry.cached_tokens = usage.cached_tokens
            entry.completion_tokens = usage.completion_tokens
            entry.reasoning_tokens = usage.reasoning_tokens
        recorder.settle(entry, status, error_code=error_code)

    def _make_message(self, info: ModelInfo) -> Submission:
        request = self._request
        # An engine that still ends an earlier attempt must not take this one for it.
        attempt_id = request.id if self._num_attempts == 1 else f"{request.id}/{self._num_attempts}"
        if isinstance(request, PoolingRequest):
            return msgspec.structs.replace(request.message, id=attempt_id, user=f"user-{request.caller.user_id}")
        if isinstance(request, TranscriptionRequest):
            return msgspec.structs.replace(
                request.message, id=attempt_id, user=f"user-{request.caller.user_id}", resume=self._resume_transcript()
            )
        if self._sampling is None:  # once: whatever the next replica's defaults are, the answer goes on as it began
            self._sampling = resolve_sampling(request, self._model, info)
        resume = [ResumeChoice(index, ids) for index, ids in enumerate(self._token_ids) if ids] or None
        message = make_generate(attempt_id, request, self._model, self._sampling, resume)
        if info.engine != "http":
            return message
        return msgspec.structs.replace(
            message, set_fields=tuple({**self._model.generation_defaults, **request.sampling})
        )

    def _resume_transcript(self) -> TranscriptResume | None:
        last = self._transcript
        if last is None:
            return None
        return TranscriptResume(last.position_frames, last.language, len(self._token_ids[0]))

    def _note_output(self) -> None:
        if not self.has_output:
            self.has_output = True
            self.entry.ttft_s = time.monotonic() - self.entry.opened_s

    def _finish(self, finished: Finished) -> Finished | None:
        is_news = finished.index not in self._finished
        self._finished.add(finished.index)
        self.has_output = True
        if finished.last:
            self.is_complete = True
            self.entry.finish_reason = finished.reason
            self.entry.queue_s = finished.timing.queue_s
            self.entry.device_s += finished.timing.device_s
            self._record_end(UsageStatus.OK, "", finished.usage)
        return finished if is_news or finished.last else None
