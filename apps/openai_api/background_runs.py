"""Background responses being written: a run belongs to this process, not to the connection that asked for it.

Tokens stay in memory; the database sees the response when it starts and when it ends.
"""

import asyncio
import logging
from contextlib import aclosing

from apps.core.db import run_db
from apps.core.errors import ServiceError, Unavailable
from apps.core.http import make_internal_error
from apps.inference.generate import generate
from apps.openai_api.background_responses import keep_alive, write_response
from apps.openai_api.encoders.responses import ResponseEncoder
from apps.openai_api.schemas.responses import PreparedCall
from gpu_worker.protocol import Delta, Finished, Started

BEAT_INTERVAL_S = 2.0  # also how soon a cancellation from elsewhere is seen

logger = logging.getLogger(__name__)
_runs: set["BackgroundRun"] = set()


class BackgroundRun:
    """One response being written, of which the database has a row. Belongs to the event loop it was started on."""

    def __init__(self, prepared: PreparedCall, encoder: ResponseEncoder) -> None:
        self._prepared = prepared
        self._encoder = encoder
        self._is_ending = False  # from here on a further cancellation would cut the end short
        self._task = asyncio.create_task(self._run(), name=f"response {encoder.response['id']}")

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this loop may touch the run."""
        return self._task.get_loop() is loop

    async def interrupt(self) -> None:
        """End the run, and return when its row is written."""
        self._cancel()
        await asyncio.wait([self._task])

    def _cancel(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            self._task.cancel()

    async def _run(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await self._generate()
        except ServiceError as error:
            self._prepared.rename(error)
            self._encoder.fail(error)
        except asyncio.CancelledError:
            # The server stops; or the row has ended already, and what is written now changes nothing.
            self._encoder.fail(Unavailable("The server was stopped while it answered. Try again."))
        except Exception:
            logger.exception("response %s failed", self._encoder.response["id"])
            self._encoder.fail(make_internal_error())
        self._is_ending = True
        beating.cancel()
        await asyncio.wait([beating])
        await self._write_end()

    async def _generate(self) -> None:
        async with aclosing(generate(self._prepared.request)) as events:
            async for event in events:
                match event:
                    case Started():
                        self._encoder.start()
                        await run_db(write_response, self._encoder.response)
                    case Delta():
                        self._encoder.add_delta(event)
                    case Finished():
                        self._encoder.finish(event)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL_S)
            try:
                if not await run_db(keep_alive, self._encoder.response["id"]):
                    return self._cancel()
            except Exception:  # the database may come back; the answer goes on in memory
                logger.exception("response %s could not be marked", self._encoder.response["id"])

    async def _write_end(self) -> None:
        try:
            await run_db(write_response, self._encoder.response)
        except Exception:  # nobody waits for it: the row is settled as lost
            logger.exception("response %s could not be kept", self._encoder.response["id"])
        finally:
            _runs.discard(self)


def start(prepared: PreparedCall, encoder: ResponseEncoder) -> None:
    """Begin to write a response on the running loop. Its end is written whoever waits for it."""
    _runs.add(BackgroundRun(prepared, encoder))


async def shutdown() -> None:
    """End every run of this loop and return when their rows are written. Before `inference.shutdown()`."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(run.interrupt() for run in list(_runs) if run.belongs_to(loop)))
