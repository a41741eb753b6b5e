"""The adapters that are loaded: read when first asked for, once for all who ask, and let go when others are wanted.

Event loop thread only; reading happens in threads of its own, since it may download.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gpu_worker.adapters.settings import AdapterError
from gpu_worker.frontend.errors import unsupported
from gpu_worker.protocol import AdapterRef
from gpu_worker.server.status import WorkerStatus

if TYPE_CHECKING:  # it imports torch, for which the server does not wait
    from gpu_worker.engine.lora import LoraAdapter

logger = logging.getLogger(__name__)

_NUM_READERS = 2
# Where an adapter comes from: folder or hub id, and revision.
Source = tuple[str, str]


class Reader(Protocol):
    """Reads adapters for the served model: see `gpu_worker.adapters.files`. Blocking; raises AdapterError."""

    def find_version(self, ref: AdapterRef) -> str:
        """Something else once the files of a folder are replaced."""

    def read(self, ref: AdapterRef) -> "LoraAdapter":
        """The adapter, checked against the model."""


@dataclass(eq=False)
class HeldAdapter:
    """A loaded adapter. Whoever holds it must hand it back with `AdapterTable.release`."""

    name: str  # as it was first asked for
    version: str
    weights: "LoraAdapter"
    num_users: int = 0

    def salt(self, cache_salt: str) -> str:
        """Prefixes are shared between requests of the same adapter only: of the same content, whatever its name."""
        return f"{cache_salt}\0{self.weights.digest}"


class AdapterTable:
    """Keeps the `max_loras` used last; those in use stay beyond that."""

    def __init__(self, reader: Reader, max_loras: int, status: WorkerStatus) -> None:
        """`status.adapters` is kept up to date."""
        self._reader = reader
        self._max_loras = max_loras
        self._status = status
        self._loaded: OrderedDict[Source, HeldAdapter] = OrderedDict()  # used last comes last
        self._loading: dict[tuple[Source, str], asyncio.Task[HeldAdapter]] = {}
        self._pool = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="adapters")

    async def hold(self, ref: AdapterRef) -> HeldAdapter:
        """The adapter, loaded if need be, and not let go before `release`. Raises RequestRejected, naming it."""
        source = (ref.source, ref.revision)
        try:
            version = await asyncio.to_thread(self._reader.find_version, ref)
            held = self._loaded.get(source)
            if held is None or held.version != version:
                held = await self._load_once(source, version, ref)
        except AdapterError as error:
            logger.warning("the adapter %s (%s) cannot be used: %s", ref.name, ref.source, error)
            raise unsupported(f"The adapter '{ref.name}' cannot be used. {error}", "model") from error
        held.num_users += 1
        self._loaded[source] = held
        self._loaded.move_to_end(source)
        self._let_go()
        return held

    def release(self, held: HeldAdapter) -> None:
        """One user less."""
        held.num_users -= 1
        self._let_go()

    def shut_down(self) -> None:
        """Release the threads. Requests must have ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _load_once(self, source: Source, version: str, ref: AdapterRef) -> HeldAdapter:
        slot = (source, version)
        task = self._loading.get(slot)
        if task is None:
            task = self._loading[slot] = asyncio.create_task(self._load(version, ref))
            task.add_done_callback(lambda _: self._loading.pop(slot, None))
        return await asyncio.shield(task)  # who came first may leave: the others still wait

    async def _load(self, version: str, ref: AdapterRef) -> HeldAdapter:
        started_s = time.monotonic()
        weights = await asyncio.get_running_loop().run_in_executor(self._pool, self._reader.read, ref)
        elapsed_s = time.monotonic() - started_s
        logger.info("adapter %s loaded: %.1f MB in %.1f s", ref.name, weights.num_bytes / 1e6, elapsed_s)
        return HeldAdapter(ref.name, version, weights)

    def _let_go(self) -> None:
        """Forget those used longest ago. Whatever of one is left in the engine's last step goes with its request."""
        unused = [source for source, held in self._loaded.items() if not held.num_users]
        for source in unused[: max(len(self._loaded) - self._max_loras, 0)]:
            logger.info("adapter %s let go", self._loaded.pop(source).name)
        self._status.adapters = [held.name for held in self._loaded.values()]
