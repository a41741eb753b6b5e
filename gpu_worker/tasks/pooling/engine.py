"""The engine of models that read a text once: embedders and cross-encoders. It knows no thread and no text.

A step is one forward pass over inputs of about equal length, of as many requests as fit:

    next user's oldest request ──► its longest input, L tokens
                                     │  + its other inputs of L/2 to L tokens
                                     │  + those of the other requests, in the order of fair share
                                     ▼
                    at most max_num_seqs rows, rows * L ≤ max_num_batched_tokens

so that less than half of a batch is padding, a long request never holds up a short one for more than a batch, and an
abort counts from the next batch on.
"""

import time
from typing import Any, NamedTuple, Protocol

import torch

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.lifecycle import NOT_A_NUMBER
from gpu_worker.engine.waiting import WaitingQueue
from gpu_worker.tasks.pooling.request import PoolingOutput, PoolingRequest, RowOptions, Sequence


class RowModel(Protocol):
    """What computes the rows; see `model.PoolingModel`."""

    can_pad: bool

    def run(self, sequences: list[Sequence]) -> torch.Tensor:
        """Float32 rows on the CPU."""


class _Part(NamedTuple):
    """A request's share of a batch."""

    request: PoolingRequest
    indices: list[int]


class PoolingEngine:
    """Implements `Engine`; the engine thread owns it."""

    def __init__(self, model: RowModel, *, max_model_len: int, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.max_model_len = max_model_len
        self._model = model
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._requests: dict[str, PoolingRequest] = {}
        self._waiting: Any = WaitingQueue()  # it looks at user, weight, priority and arrival only
        self._num_steps = 0

    def add(self, request: PoolingRequest) -> None:
        """Queue a request of at least one input."""
        self._requests[request.id] = request
        self._waiting.push(request)

    def abort(self, request_id: str) -> PoolingOutput | None:
        """Forget a request. None when it is not known (any more)."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        self._finish(request)
        return PoolingOutput(request, finish_reason="abort")

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._requests)

    def step(self) -> list[PoolingOutput]:
        """One batch."""
        parts = self._choose()
        started_s = time.monotonic()
        rows_RD = self._model.run([part.request.sequences[index] for part in parts for index in part.indices])
        spent_s = time.monotonic() - started_s
        self._num_steps += 1
        num_tokens = sum(map(_count_tokens, parts))
        outputs = []
        for part, part_rows_RD in zip(parts, rows_RD.split([len(part.indices) for part in parts]), strict=True):
            request = part.request
            share = _count_tokens(part) / num_tokens
            request.device_s += spent_s * share
            request.first_scheduled_s = request.first_scheduled_s or started_s
            request.first_token_s = request.first_token_s or time.monotonic()
            self._waiting.charge(request, _count_tokens(part))
            outputs.append(self._deliver(part, part_rows_RD))
        return outputs

    def queue_position(self, request_id: str) -> int | None:
        """About how many requests go before it; None once its first inputs are computed."""
        request = self._requests.get(request_id)
        if request is None or request.num_done:
            return None
        return self._waiting.estimate_position(request)

    def stats(self) -> EngineStats:
        """Load at this moment. There is no cache: no blocks."""
        num_running = sum(request.num_done > 0 for request in self._requests.values())
        num_waiting = len(self._requests) - num_running
        return EngineStats(num_running, num_waiting, free_blocks=0, num_blocks=0, num_steps=self._num_steps)

    def reset(self, error: str) -> list[PoolingOutput]:
        """Fail every request with this message."""
        outputs = [request.fail(error) for request in self._requests.values()]
        for request in list(self._requests.values()):
            self._finish(request)
        return outputs

    def _choose(self) -> list[_Part]:
        """Take the next batch's inputs out of their requests."""
        first = self._waiting.peek()
        longest = first.longest
        room = max(1, min(self._max_num_seqs, self._max_num_batched_tokens // longest))
        shortest = longest // 2 + 1 if self._model.can_pad else longest
        parts = []
        for request in [first, *(other for other in self._waiting if other is not first)]:
            if indices := request.take(room, shortest=shortest, longest=longest):
                parts.append(_Part(request, indices))
                room -= len(indices)
            if room == 0:
                break
        return parts

    def _deliver(self, part: _Part, rows_RD: torch.Tensor) -> PoolingOutput:
        request, indices = part
        request.num_done += len(indices)
        if not torch.isfinite(rows_RD).all():
            self._finish(request)
            return request.fail(NOT_A_NUMBER)
        is_last = request.num_left == 0
        if is_last:
            self._finish(request)
        rows_RD = shape_rows(rows_RD, request.options)
        return PoolingOutput(
            request,
            indices,
            width=rows_RD.shape[1],
            rows=rows_RD.numpy().astype("<f4", copy=False).tobytes(),
            finish_reason="stop" if is_last else None,
        )

    def _finish(self, request: PoolingRequest) -> None:
        del self._requests[request.id]
        self._waiting.remove(request)
        self._waiting.leave(request)


def shape_rows(rows_RD: torch.Tensor, options: RowOptions) -> torch.Tensor:
    """Cut to the first dimensions, then to unit length: what Matryoshka training makes the beginning good for."""
    if options.dimensions is not None:
        rows_RD = rows_RD[:, : options.dimensions]
    return torch.nn.functional.normalize(rows_RD, dim=-1) if options.normalize else rows_RD


def _count_tokens(part: _Part) -> int:
    return sum(len(part.request.sequences[index].token_ids) for index in part.indices)
