"""Background responses being written: in this process, for whoever asks for them later or follows their events.

Tokens stay in memory; the database sees the response when it starts and when it ends.
"""

from collections.abc import AsyncGenerator
from typing import Any

from apps.core.db import run_db
from apps.core.errors import ServiceError
from apps.core.http import SSE_DONE
from apps.inference.events import Waiting
from apps.inference.runs import Interrupted, Run
from apps.openai_api.background_responses import keep_alive, write_response
from apps.openai_api.encoders.mcp_responses import McpResponseEncoder
from apps.openai_api.encoders.responses import ResponseEncoder
from apps.openai_api.event_log import EventLog
from apps.openai_api.event_streams import close_log, tell_waiting
from apps.openai_api.response_answers import generate_response
from apps.openai_api.schemas.responses import PreparedCall
from gpu_worker.protocol import Delta, Finished, Started


class BackgroundRun(Run):
    """One response being written, of which the database has a row. With a log its events can be followed."""

    beat_interval_s = 1.0

    def __init__(self, prepared: PreparedCall, encoder: ResponseEncoder, log: EventLog | None = None) -> None:
        self._prepared = prepared
        self._encoder = encoder
        self._log = log
        self._is_wanted = True  # nobody has cancelled or deleted it
        super().__init__(prepared.request)

    def generate(self) -> AsyncGenerator[Any, None]:
        return generate_response(self._prepared)

    async def take(self, event: Any) -> None:
        match event:
            case Started():
                self._tell(self._encoder.start())
                await run_db(write_response, self._encoder.response)
            case Delta():
                self._tell(self._encoder.add_delta(event))
            case Finished():
                self._tell(self._encoder.finish(event))
            case Waiting() if self._log is not None:
                tell_waiting(self._log, event)
            case _ if isinstance(self._encoder, McpResponseEncoder) and not isinstance(event, Waiting):
                self._tell(self._encoder.add_tool_event(event))
        if self._log is not None:
            await self._log.have_room()

    async def beat(self) -> bool:
        if self._log is not None:
            await self._log.save()
        self._is_wanted = await run_db(keep_alive, self._encoder.response["id"])
        return self._is_wanted

    async def end(self, error: ServiceError | None) -> None:
        if isinstance(error, Interrupted) and not self._is_wanted:
            self._tell(self._encoder.cancel())
        elif error is not None:
            self._prepared.rename(error)
            self._tell(self._encoder.fail(error))
        try:
            await run_db(write_response, self._encoder.response)
        finally:
            if self._log is not None:
                self._log.add(self._encoder.end() + SSE_DONE)
                await close_log(self._log)

    def _tell(self, encoded: bytes) -> None:
        if self._log is not None:
            self._log.add(encoded)
