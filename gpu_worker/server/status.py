"""What the worker says of itself at any moment. Read and written in the event loop's thread only."""

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from gpu_worker.engine.base import EngineStats
from gpu_worker.protocol import ModelInfo, Pong, RepositoryCode

_IDLE = EngineStats(num_running=0, num_waiting=0, free_blocks=0, num_blocks=0, num_steps=0)


@dataclass
class WorkerStatus:
    """`error` is set when the worker has failed, `info` when it is ready."""

    status: Literal["loading", "ready", "draining", "failed"] = "loading"
    progress: float = 0.0
    stage: str = "starting"
    error: str | None = None
    info: ModelInfo | None = None
    stats: EngineStats = _IDLE
    unapproved_code: RepositoryCode | None = None  # the model was not loaded because of it
    adapters: list[str] = field(default_factory=list)  # names of those that are loaded, used last comes last
    idle_since_s: float | None = None  # time.monotonic; None: not ready yet, or a request is active

    @property
    def http_status(self) -> HTTPStatus:
        """200 only while new requests are taken."""
        return HTTPStatus.OK if self.status == "ready" else HTTPStatus.SERVICE_UNAVAILABLE

    def to_json(self) -> bytes:
        """The body of GET /health."""
        body: dict[str, Any] = {
            "status": self.status,
            "progress": self.progress,
            "stage": self.stage,
            "error": self.error,
            "unapproved_code": self.unapproved_code,
            "info": self.info,
            "stats": self.stats,
            "adapters": self.adapters,
            "idle_s": None if self.idle_since_s is None else time.monotonic() - self.idle_since_s,
        }
        return msgspec.json.encode(body)

    def to_pong(self, nonce: int) -> Pong:
        """The answer to a heartbeat."""
        stats = self.stats
        return Pong(
            nonce=nonce,
            num_running=stats.num_running,
            num_waiting=stats.num_waiting,
            free_blocks=stats.free_blocks,
            num_blocks=stats.num_blocks,
            num_steps=stats.num_steps,
        )
