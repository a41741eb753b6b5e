"""A request for vectors or scores on its way through the pooling engine, and what one step did for it."""

import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

from gpu_worker.protocol import FailureCode, FinishReason


class Sequence(NamedTuple):
    """The tokens of one input, ready for the model. `num_skipped` leading ones (a prompt) are not pooled."""

    token_ids: list[int]
    type_ids: list[int]
    num_skipped: int = 0


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What becomes of a vector before it is sent. Scores have neither."""

    dimensions: int | None = None
    normalize: bool = False


@dataclass(slots=True, eq=False)
class PoolingRequest:
    """All inputs of one client request. Those not yet computed lie sorted by length, so that a batch pads little."""

    id: str
    sequences: list[Sequence]
    options: RowOptions
    user: str = ""
    weight: float = 1.0
    priority: int = 0
    arrival_s: float = field(default_factory=time.monotonic)

    # Written by the engine only.
    num_done: int = 0
    first_scheduled_s: float | None = None
    first_token_s: float | None = None  # of the first result
    device_s: float = 0.0
    num_cached_tokens: int = 0  # nothing is cached; read where timings are
    _order: list[int] = field(init=False)  # positions in `sequences` that are left, the longest last
    _lengths: list[int] = field(init=False)  # theirs

    def __post_init__(self) -> None:
        self._order = sorted(range(len(self.sequences)), key=lambda index: len(self.sequences[index].token_ids))
        self._lengths = [len(self.sequences[index].token_ids) for index in self._order]

    @property
    def num_left(self) -> int:
        """Inputs that are in no batch yet."""
        return len(self._order)

    @property
    def longest(self) -> int:
        """Tokens of the longest input that is left."""
        return self._lengths[-1]

    def take(self, count: int, *, shortest: int, longest: int) -> list[int]:
        """Up to `count` of the inputs left whose length is within these bounds, the longest first."""
        end = bisect_right(self._lengths, longest)
        start = max(end - count, bisect_right(self._lengths, shortest - 1), 0)
        taken = self._order[start:end][::-1]
        del self._order[start:end], self._lengths[start:end]
        return taken

    def fail(self, error: str) -> "PoolingOutput":
        """End it with an error."""
        return PoolingOutput(self, error=error)


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """Some results of a request, or its end, or both. `rows` are float32, one after the other."""

    request: PoolingRequest
    indices: list[int] = field(default_factory=list)
    width: int = 0
    rows: bytes = b""
    finish_reason: FinishReason | None = None
    error: str | None = None
    error_code: FailureCode = "internal"
    error_param: str | None = None
