"""The contract of an engine: what the worker's loop and server may rely on, paged or fallback."""

from dataclasses import dataclass
from typing import Protocol

from gpu_worker.engine.request import Request, TokenOutput


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


class Engine(Protocol):
    """All methods are called from one thread, the one that loaded the model. Nothing here blocks but `step`."""

    max_model_len: int

    def add(self, request: Request) -> None:
        """Queue a request. Its prompt is valid and shorter than `max_model_len`."""

    def abort(self, request_id: str) -> TokenOutput | None:
        """End a request and free its blocks at once. None when it is not known (any more)."""

    def has_work(self) -> bool:
        """Whether `step` would do anything."""

    def step(self) -> list[TokenOutput]:
        """Schedule, forward, sample: at most one token for each running request."""

    def queue_position(self, request_id: str) -> int | None:
        """How many waiting requests are ahead of it; None once it runs."""

    def stats(self) -> EngineStats:
        """Load at this moment."""

    def reset(self, error: str) -> list[TokenOutput]:
        """Fail every request with this message and forget all cached state, as after a step that raised."""
