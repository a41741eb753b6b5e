"""Chat completions whose stream can be read again: they go on for a while when their reader has gone.

Their tokens reach the reader through this process's memory, as those of any stream do.
"""

import time
from collections.abc import AsyncGenerator

from django.conf import settings

from apps.core.errors import RequestTimeout, ServiceError
from apps.core.http import SSE_DONE, encode_sse_error
from apps.inference.events import Event, Waiting
from apps.inference.runs import Interrupted, Run
from apps.openai_api.encoders.chat import ChatStreamEncoder
from apps.openai_api.event_log import EventLog
from apps.openai_api.event_streams import close_log, open_log, tell_waiting
from apps.openai_api.mcp_chats import generate_chat
from apps.openai_api.schemas.chat import ChatCall
from gpu_worker.protocol import Delta, Finished, Started


class ResumableChat(Run):
    """One chat completion being written to a log."""

    beat_interval_s = 1.0

    def __init__(self, call: ChatCall, log: EventLog) -> None:
        self._encoder = ChatStreamEncoder(call.request, include_usage=call.include_usage, customs=call.customs)
        self._call = call
        self._log = log
        self._read_s = time.monotonic()
        self._was_left = False
        super().__init__(call.request)

    def generate(self) -> AsyncGenerator[Event, None]:
        return generate_chat(self._call)

    async def take(self, event: Event) -> None:
        match event:
            case Waiting():
                tell_waiting(self._log, event)
            case Started():
                self._log.add(self._encoder.encode_start())
            case Delta():
                self._log.add(self._encoder.encode_delta(event))
            case Finished():
                self._log.add(self._encoder.encode_finish(event))
        await self._log.have_room()

    async def beat(self) -> bool:
        elsewhere_s = await self._log.save()
        now_s = time.monotonic()
        if self._log.has_readers:
            self._read_s = now_s
        self._was_left = elsewhere_s is None or min(elsewhere_s, now_s - self._read_s) > settings.RESUME_WITHIN_S
        return not self._was_left

    async def end(self, error: ServiceError | None) -> None:
        if self._was_left and isinstance(error, Interrupted):
            error = RequestTimeout("Nobody came back to read this stream.", code="reader_gone")
        if error is None:
            self._log.add(SSE_DONE)
        else:
            self._call.rename(error)
            if self._log.num_events:
                self._log.add(encode_sse_error(error))
        await close_log(self._log, error)


async def start(call: ChatCall) -> str:
    """Begin the answer on the running loop. Returns the id under which it is followed."""
    ResumableChat(call, await open_log(call.request.caller, call.request.id, has_ids=True))
    return call.request.id
