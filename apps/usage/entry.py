"""One request's line in the ledger while it is still being written in memory. Knows no database."""

import asyncio
import time
from datetime import UTC, datetime

import msgspec

from apps.accounts.caller import Caller
from apps.usage.models import UsageStatus


class Entry(msgspec.Struct, eq=False, kw_only=True):
    """Made in the event loop that will await `Recorder.written`. Its counts may be raised at any time there; the
    recorder writes them down every few seconds, and finally by `Recorder.settle`."""

    id: str
    caller: Caller
    model_name: str
    revision: str
    endpoint: str
    streamed: bool
    created_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    opened_s: float = msgspec.field(default_factory=time.monotonic)
    loop: asyncio.AbstractEventLoop = msgspec.field(default_factory=asyncio.get_running_loop)
    # The counts so far.
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    queue_s: float = 0.0
    ttft_s: float | None = None
    device_s: float = 0.0
    replica_id: str | None = None  # a UUID's text
    finish_reason: str = ""
    # The end, set by `Recorder.settle`.
    status: UsageStatus = UsageStatus.OPEN
    error_code: str = ""
    duration_s: float | None = None
    finished_at: datetime | None = None
    # The recorder's own.
    is_durable: bool = False  # the open row is committed: set by the writer thread, after which it wakes `waiter`
    counts_written: tuple[int, int] = (0, 0)
    waiter: "asyncio.Future[None] | None" = None  # of who awaits `Recorder.written`

    def mark_durable(self) -> None:
        """Called in the entry's event loop by the recorder."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    @property
    def counts(self) -> tuple[int, int]:
        """What is worth writing down while the request runs."""
        return self.prompt_tokens, self.completion_tokens
