"""What the last look at the database said of each key, for a few seconds. Knows hashes, never secrets."""

import threading
import time
from typing import NamedTuple

from apps.accounts.caller import Caller

MAX_ENTRIES = 10_000  # beyond it the oldest go: a flood of invented keys must not grow memory


class CacheEntry(NamedTuple):
    """An answer and until when it holds (time.monotonic). `caller` None: no such key."""

    caller: Caller | None
    expires_s: float


class CallerCache:
    """key hash -> Caller. Safe from any thread; a read takes no lock."""

    def __init__(self) -> None:
        self._entries: dict[str, CacheEntry] = {}
        self._lock = threading.Lock()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Moves with every `forget`. To be read before the database is asked, and handed to `put`."""
        return self._generation

    def get(self, key_hash: str) -> CacheEntry | None:
        """The entry, unless it has run out."""
        entry = self._entries.get(key_hash)
        return entry if entry is not None and entry.expires_s > time.monotonic() else None

    def put(self, key_hash: str, caller: Caller | None, ttl_s: float, generation: int) -> None:
        """Keep an answer, unless something was forgotten since `generation`.

        Otherwise a look-up that began before a revocation would bring the revoked key back.
        """
        with self._lock:
            if generation != self._generation or ttl_s <= 0:
                return
            self._entries.pop(key_hash, None)  # re-inserted at the end: the order is the order of age
            self._entries[key_hash] = CacheEntry(caller, time.monotonic() + ttl_s)
            if len(self._entries) > MAX_ENTRIES:
                del self._entries[next(iter(self._entries))]

    def forget(self, key_hash: str) -> None:
        """The next request with this key asks the database."""
        with self._lock:
            self._generation += 1
            self._entries.pop(key_hash, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._generation += 1
            self._entries.clear()


caller_cache = CallerCache()
