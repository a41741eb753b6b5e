"""The links of one event loop, by replica. Knows who is dialled; not which of them a request goes to."""

import asyncio
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from apps.inference.clients.base import ReplicaLink
from apps.inference.clients.native import NativeLink
from apps.registry.directory import ReplicaAddress


class LinkPool:
    """Dials replicas as they appear, loading ones too: their socket listens before their model is loaded."""

    def __init__(self) -> None:
        self._links: dict[str, NativeLink] = {}
        self._changed = asyncio.Event()

    def get_links(self, replicas: Iterable[ReplicaAddress]) -> list[ReplicaLink]:
        """A link to each replica that has an address, in order; those that are missing or moved are dialled."""
        links: list[ReplicaLink] = []
        for replica in replicas:
            if not replica.url:
                continue
            link = self._links.get(replica.id)
            if link is None or link.ended or (link.url, link.token) != (replica.url, replica.token):
                if link is not None:
                    link.hang_up()
                link = NativeLink(
                    replica_id=replica.id, url=replica.url, token=replica.token, on_change=self._note_change
                )
                self._links[replica.id] = link
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

    def _note_change(self) -> None:
        self._links = {replica_id: link for replica_id, link in self._links.items() if not link.ended}
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, LinkPool] = WeakKeyDictionary()


def get_pool() -> LinkPool:
    """The running event loop's pool, made on first use."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = LinkPool()
    return pool
