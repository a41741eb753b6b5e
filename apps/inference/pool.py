"""The links of one event loop, by replica. Knows who is dialled; not which of them a request goes to."""

import asyncio
import time
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from apps.inference.clients.base import ReplicaLink
from apps.inference.clients.native import NativeLink
from apps.inference.clients.openai_http import HttpLink, HttpTarget
from apps.registry.directory import ReplicaAddress

LOOK_INTERVAL_S = 60.0


class LinkPool:
    """Dials replicas as they appear, loading ones too: their socket listens before their model is loaded."""

    def __init__(self) -> None:
        self._links: dict[str, NativeLink | HttpLink] = {}
        self._changed = asyncio.Event()
        self._look_again_s = 0.0

    def get_links(self, replicas: Iterable[ReplicaAddress]) -> list[ReplicaLink]:
        """A link to each replica that has an address, in order; those that are missing or moved are dialled."""
        self._drop_unused()
        links: list[ReplicaLink] = []
        for replica in replicas:
            if not replica.url:
                continue
            link = self._links.get(replica.id)
            if link is None or link.ended or not _is_to(link, replica):
                if link is not None:
                    link.hang_up()
                link = self._links[replica.id] = self._make_link(replica)
            if isinstance(link, HttpLink):
                link.is_ready = replica.state == "ready"
            links.append(link)
        return links

    async def wait_for_change(self, timeout_s: float) -> None:
        """Until some link becomes ready, makes progress or is lost, but no longer than this."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Hang up everywhere."""
        links, self._links = self._links, {}
        await asyncio.gather(*(link.close() for link in links.values()))

    def _drop_unused(self) -> None:
        """Links by HTTP, which learn of no end: a native one gives up by itself when its replica is gone."""
        now_s = time.monotonic()
        if now_s < self._look_again_s:
            return
        self._look_again_s = now_s + LOOK_INTERVAL_S
        for replica_id, link in list(self._links.items()):
            if isinstance(link, HttpLink) and link.is_unused:
                del self._links[replica_id]
                link.hang_up()

    def _make_link(self, replica: ReplicaAddress) -> NativeLink | HttpLink:
        if (target := _make_target(replica)) is not None:
            return HttpLink(replica_id=replica.id, target=target, on_change=self._note_change)
        return NativeLink(replica_id=replica.id, url=replica.url, token=replica.token, on_change=self._note_change)

    def _note_change(self) -> None:
        self._links = {replica_id: link for replica_id, link in self._links.items() if not link.ended}
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _make_target(replica: ReplicaAddress) -> HttpTarget | None:
    """None for a worker of our own engine."""
    if not replica.dialect:
        return None
    return HttpTarget(
        base_url=replica.url,
        secret=replica.token,
        model=replica.served_name,
        dialect=replica.dialect,
        is_upstream=replica.is_upstream,
    )


def _is_to(link: NativeLink | HttpLink, replica: ReplicaAddress) -> bool:
    """Whether the link leads where the replica is now."""
    if isinstance(link, HttpLink):
        return link.target == _make_target(replica)
    return not replica.dialect and (link.url, link.token) == (replica.url, replica.token)


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, LinkPool] = WeakKeyDictionary()


def get_pool() -> LinkPool:
    """The running event loop's pool, made on first use."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = LinkPool()
    return pool
