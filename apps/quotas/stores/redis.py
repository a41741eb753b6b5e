"""Counters in Redis: one Lua script decides and writes. Knows no rule of counting."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from apps.core.db import submit_db
from apps.quotas.counters import Ask, BudgetWarning, Counter, Need, Refusal, Standing, Verdict
from apps.quotas.stores.base import TIMEOUT_S, StoreAway
from apps.quotas.warnings import send_warnings

AWAY_S = 1.0  # for so long nobody tries again: requests must not queue for a server that does not answer
MAX_CONNECTIONS = 16  # of one event loop
_SOCKET_TIMEOUT_S = 3.0  # a loop that is busy for a moment must not take Redis for away
_SCRIPT = (Path(__file__).parent / "counters.lua").read_text()
_PREFIX = "atrium:{quotas}:"
_HOLDS = f"{_PREFIX}holds"
_TIMES = {"socket_timeout": _SOCKET_TIMEOUT_S, "socket_connect_timeout": _SOCKET_TIMEOUT_S}
_ERRORS = (redis.RedisError, OSError, TimeoutError)

logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class RedisStore:
    """One for the process; each event loop has its own connections."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._scripts: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._away_until_s = 0.0

    async def reserve(self, ask: Ask) -> Verdict:
        raw = await self._ask(*_make_reservation(ask))
        return _read_verdict(raw)

    def settle(self, hold_id: str, used: Need, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the reaper settles it
            if _is_running(loop):
                self._settle_soon(hold_id, used)
            else:
                loop.call_soon_threadsafe(self._settle_soon, hold_id, used)

    def settle_now(self, hold_id: str, used: Need) -> list[BudgetWarning]:
        with self._connect() as client:
            keys, arguments = _make_settlement(hold_id, used)
            return _read_warnings(client.eval(_SCRIPT, len(keys), *keys, *arguments))

    def list_holds(self, older_than_s: float) -> dict[str, float]:
        with self._connect() as client:
            now_s = float(client.time()[0])
            found: Any = client.zrangebyscore(_HOLDS, 0, now_s - older_than_s, withscores=True)
            return {name.decode(): now_s - made_s for name, made_s in found}

    def read_counters(self, names: list[str]) -> dict[str, Counter]:
        with self._connect() as client:
            raw: dict[str, Any] = {name: client.hgetall(_PREFIX + name) for name in names}
        return {name: _read_counter(fields) for name, fields in raw.items() if fields}

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(task for task in self._tasks if task.get_loop() is loop), return_exceptions=True)
        if (script := self._scripts.pop(loop, None)) is not None:
            await script.registered_client.aclose()
            await script.registered_client.connection_pool.disconnect()

    def _settle_soon(self, hold_id: str, used: Need) -> None:
        task = asyncio.get_running_loop().create_task(self._settle(hold_id, used))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, hold_id: str, used: Need) -> None:
        with contextlib.suppress(StoreAway):  # then the reaper does it
            if warnings := _read_warnings(await self._ask(*_make_settlement(hold_id, used))):
                submit_db(send_warnings, warnings)

    async def _ask(self, keys: list[str], arguments: list[bytes]) -> Any:
        if time.monotonic() < self._away_until_s:
            raise StoreAway
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._get_script()(keys=keys, args=arguments)
        except _ERRORS as error:
            self._away_until_s = time.monotonic() + AWAY_S
            logger.error("Redis does not keep the quotas: %s", error or type(error).__name__)
            raise StoreAway from error

    def _get_script(self) -> Any:
        loop = asyncio.get_running_loop()
        script = self._scripts.get(loop)
        if script is None:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                self._url,
                max_connections=MAX_CONNECTIONS,
                timeout=TIMEOUT_S,
                retry=AsyncRetry(NoBackoff(), 1),  # asking the same twice is harmless: `counters.reserve`
                **_TIMES,
            )
            script = self._scripts[loop] = redis.asyncio.Redis(connection_pool=pool).register_script(_SCRIPT)
        return script

    @contextlib.contextmanager
    def _connect(self) -> Iterator[redis.Redis]:
        try:
            with redis.Redis.from_url(self._url, retry=Retry(NoBackoff(), 1), **_TIMES) as client:
                yield client
        except _ERRORS as error:
            raise StoreAway from error


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _make_reservation(ask: Ask) -> tuple[list[str], list[bytes]]:
    asked = {"op": "reserve", "id": ask.id, "claims": ask.claims, "need": ask.need}
    if ask.seeds:
        asked["seeds"] = ask.seeds
    return [f"{_PREFIX}hold:{ask.id}", _HOLDS, *(_PREFIX + claim.counter for claim in ask.claims)], [_encode(asked)]


def _make_settlement(hold_id: str, used: Need) -> tuple[list[str], list[bytes]]:
    return [f"{_PREFIX}hold:{hold_id}", _HOLDS], [_encode({"op": "settle", "id": hold_id, "used": used})]


def _read_verdict(raw: list[Any]) -> Verdict:
    if raw[0] == b"unseeded":
        return Verdict(unseeded=list(raw[1]))
    standings = [
        Standing(int(requests), int(tokens), float(newest_s), int(budget))
        for requests, tokens, newest_s, budget in raw[2]
    ]
    if not raw[1]:
        return Verdict(None, [], standings)
    position, limit, used, wait_s, held = raw[1]
    refusal = Refusal(position, limit.decode(), int(used), float(wait_s) if wait_s else None, int(held))
    return Verdict(refusal, [], standings)


def _read_warnings(raw: list[Any]) -> list[BudgetWarning]:
    return [
        BudgetWarning(counter.decode(), period.decode(), int(tokens), int(nano))
        for counter, period, tokens, nano in raw
    ]


def _read_counter(fields: dict[bytes, bytes]) -> Counter:
    readers: dict[str, Callable[[str], Any]] = {"period": str, "warned": str}
    counter = Counter()
    for name, value in ((name.decode(), value.decode()) for name, value in fields.items()):
        if name.startswith("w") and name[1:].isdigit():
            requests, tokens = value.split(":")
            counter.buckets[int(name[1:])] = int(requests), int(tokens)
        else:
            setattr(counter, name, readers.get(name, int)(value))
    return counter
