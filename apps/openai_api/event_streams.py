"""Streams that can be read again: begun by a run of this process, followed from any. Knows no HTTP.

A reader in the process that writes is told at once, from memory; one elsewhere, or later, through the database.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from apps.accounts.caller import Caller
from apps.core.db import run_db
from apps.core.errors import InvalidRequest, ServiceError, Unavailable
from apps.core.http import SSE_DONE, encode_sse_comment, encode_sse_error
from apps.inference.events import Waiting
from apps.openai_api.background_responses import read_response
from apps.openai_api.encoders.parts import describe_waiting
from apps.openai_api.encoders.responses import encode_terminal
from apps.openai_api.event_log import EventLog, make_tag
from apps.openai_api.kept_events import create_stream, end_lost, load_events
from apps.openai_api.models import ResponseStatus

POLL_INTERVAL_S = 0.5

_EVENT_ID = re.compile(rb"(chatcmpl-[0-9a-f]{24}):([0-9]{1,9})")

_logs: dict[str, EventLog] = {}  # of the runs of this process


def read_event_id(given: bytes) -> tuple[str, int]:
    """The stream that a `Last-Event-ID` names, and the number of the next event. Raises InvalidRequest."""
    if match := _EVENT_ID.fullmatch(given):
        return match[1].decode(), int(match[2]) + 1
    raise InvalidRequest("'Last-Event-ID' is not the id of an event of a chat completion.", param="Last-Event-ID")


async def open_log(caller: Caller, stream_id: str, *, has_ids: bool = False) -> EventLog:
    """A new stream of the caller's. Give it to `close_log` at its end."""
    await run_db(create_stream, caller, stream_id)
    log = _logs[stream_id] = EventLog(stream_id, caller, has_ids=has_ids)
    return log


async def close_log(log: EventLog, error: ServiceError | None = None) -> None:
    """The log has its last event: its readers are told so, and so will be those that come later."""
    try:
        await log.save(is_last=True)
    finally:
        log.end(error)
        _logs.pop(log.stream_id, None)


def tell_waiting(log: EventLog, waiting: Waiting) -> None:
    """Have the readers see what is waited for."""
    log.tell(encode_sse_comment(describe_waiting(waiting)))


async def follow(caller: Caller, stream_id: str, position: int = 0) -> AsyncGenerator[bytes, None]:
    """Every event from number `position` on, as soon as there is one, and comments about waits; at times nothing.

    Raises NotFound for another's stream, Gone for one that is kept no longer, and what a stream failed with before
    its first event.
    """
    loop = asyncio.get_running_loop()
    while True:
        log = _logs.get(stream_id)
        if log is not None and log.is_of(caller, loop) and log.first <= position:
            async with aclosing(_follow_log(log, position)) as pieces:
                async for num_events, piece in pieces:
                    position += num_events
                    yield piece
            if log.has_ended_at(position):
                return
        page = await run_db(load_events, caller, stream_id, position)
        position += len(page.events)
        yield b"".join(page.events)
        if page.has_ended:
            return
        if page.is_lost and not page.events:
            await _end_lost(caller, stream_id)
        elif not page.events:
            await asyncio.sleep(POLL_INTERVAL_S)


async def _follow_log(log: EventLog, position: int) -> AsyncGenerator[tuple[int, bytes], None]:
    """Until the end, or until the reader has fallen so far behind that what it needs is not in memory any more."""
    comment = b""
    with log.listen() as changed:
        while log.first <= position:
            changed.clear()
            if log.error is not None and not log.num_events:
                raise log.error
            if log.comment != comment:
                comment = log.comment
                yield 0, comment
            news = log.read(position)
            position += len(news.events)
            if news.events or log.num_events:
                yield len(news.events), b"".join(news.events)
            if news.has_ended:
                return
            await changed.wait()


async def _end_lost(caller: Caller, stream_id: str) -> None:
    if not stream_id.startswith("resp_"):
        gone = encode_sse_error(Unavailable("The server went away while it answered. Try again."))
        return await run_db(end_lost, stream_id, lambda number: [make_tag(stream_id, number) + gone])
    stored = await run_db(read_response, caller, stream_id)
    if stored.status in (ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS):
        return await asyncio.sleep(POLL_INTERVAL_S)  # it said that it lives a little later than its events did
    response = msgspec.json.decode(stored.response)
    await run_db(end_lost, stream_id, lambda number: [encode_terminal(response, number), SSE_DONE])
