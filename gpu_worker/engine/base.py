"""The contract of an engine: what the worker's loop and server may rely on, paged or fallback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpu_worker.protocol import FailureCode


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A reading between two steps. `free_blocks` counts blocks a new request could take, cached ones included.

    The fallback engine has no blocks: it counts one for each request that may run.
    """

    num_running: int
    num_waiting: int
    free_blocks: int
    num_blocks: int
    num_steps: int
    num_drafted_tokens: int = 0  # guesses computed since start, and those that were right
    num_accepted_tokens: int = 0


class EngineOutput(Protocol):
    """What a step did for one request. The loop reads no more of it than this."""

    @property
    def request(self) -> Any: ...

    @property
    def error(self) -> str | None:
        """Why the engine failed the request, which has then ended."""

    @property
    def error_code(self) -> FailureCode:
        """Whose fault that was."""

    @property
    def error_param(self) -> str | None:
        """The field of the request that was at fault, if one was."""


class EngineRequest(Protocol):
    """What is submitted: a `Request`, or what another kind of engine computes."""

    id: str

    def fail(self, error: str) -> EngineOutput:
        """End it before the engine has seen it."""


class Engine(Protocol):
    """All methods are called from one thread, the one that loaded the model. Nothing here blocks but `step`."""

    max_model_len: int

    def add(self, request: Any) -> None:
        """Queue a request of this engine's kind. Its prompt is valid and shorter than `max_model_len`."""

    def abort(self, request_id: str) -> EngineOutput | None:
        """End a request and free its blocks at once. None when it is not known (any more)."""

    def has_work(self) -> bool:
        """Whether `step` would do anything."""

    def step(self) -> Sequence[EngineOutput]:
        """One forward pass. Of a decoder: schedule, forward, sample, a token or a few for each that decodes."""

    def queue_position(self, request_id: str) -> int | None:
        """How many waiting requests are ahead of it; None once it runs."""

    def stats(self) -> EngineStats:
        """Load at this moment."""

    def reset(self, error: str) -> Sequence[EngineOutput]:
        """Fail every request with this message and forget all cached state, as after a step that raised."""
