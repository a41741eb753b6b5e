"""Which replica a request goes to, and to which one next. Sends nothing itself."""

import time
from zlib import crc32

from django.conf import settings

from apps.core.errors import InternalError, ServiceError, Unavailable
from apps.inference.clients.base import ReplicaLink
from apps.inference.events import Waiting
from apps.inference.failures import RETRIED_ELSEWHERE, RETRY_AFTER_S, to_service_error
from apps.inference.pool import get_pool
from apps.inference.requests import AnyRequest, GenerationRequest
from apps.registry import directory
from apps.registry.directory import ModelSpec, ReplicaAddress
from gpu_worker.protocol import Failed

FAILOVER_TIMEOUT_S = 60.0  # an answer that has begun waits this long for a replica to go on with it
MAX_FAILOVERS = 3  # a request that has seen so many replicas die may be what kills them
POLL_S = 0.5  # how often a wait looks at the registry, when no link says anything
FAILED_GRACE_S = 5.0  # a failure older than our asking for a replica is not yet the answer to it
REFUSED_GRACE_S = 1.0  # how long a refused request waits for another replica that is about to be there
AFFINITY_CHARS = 512
AFFINITY_SLACK = 2  # requests by which a replica may be busier than the least busy and still get its prefixes


class Route:
    """One request's way through the replicas of its model. Used by one task."""

    def __init__(self, model: ModelSpec, affinity: str = "") -> None:
        self.model = model
        self._affinity = f"{model.name}\0{affinity}" if model.adapter is not None else affinity
        self._deadline_s = time.monotonic() + settings.LOAD_TIMEOUT_S
        self._avoided: set[tuple[str, int]] = set()
        self._failure: ServiceError | None = None  # why the last replica was left, where it said so
        self._failed_at_s = 0.0
        self._num_failovers = 0
        self._asked_at_s: float | None = None
        self._has_seen_one = False

    async def next(self) -> ReplicaLink | Waiting:
        """A ready replica, or, after a while without one, how far the wait has come.

        Raises Unavailable when the model cannot be loaded, when nobody has room, and when the time is up.
        """
        replicas = await directory.get_replicas(self.model.id)
        usable = [replica for replica in replicas if replica.state not in ("draining", "failed")]
        links = get_pool().get_links(usable)
        others = [link for link in links if link.attempt not in self._avoided]
        if ready := [link for link in others if link.info is not None]:
            return _choose(ready, self._affinity)
        if self._failure is not None and (not others or time.monotonic() > self._failed_at_s + REFUSED_GRACE_S):
            raise self._failure
        if not usable:
            await self._ask_for_one([replica for replica in replicas if replica.state == "failed"])
        self._has_seen_one = self._has_seen_one or bool(usable)
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise Unavailable(
                f"The model '{self.model.name}' was not ready in time. Try again later.",
                code="model_load_timeout",
                retry_after_s=RETRY_AFTER_S,
            )
        await get_pool().wait_for_change(min(POLL_S, remaining_s))
        if any(link.info is not None for link in others):
            return await self.next()  # only dialled meanwhile: no client has to be told of a wait
        progress = [replica.progress for replica in usable] + [link.progress or 0.0 for link in links]
        return Waiting("loading", progress=max(progress, default=None))

    def leave(self, link: ReplicaLink, failed: Failed) -> None:
        """This replica refused or broke off the request: go elsewhere, or raise what the client is to be told."""
        error = to_service_error(failed)
        if failed.code not in RETRIED_ELSEWHERE:
            raise error
        self._avoided.add(link.attempt)
        if failed.code == "internal":
            self._count_failover(error)
        self._failure = error if failed.code != "not_ready" else None
        self._failed_at_s = time.monotonic()

    def lose(self, *, has_started: bool) -> None:
        """The replica is gone: another one, or the same one restarted, goes on. Raises after too many."""
        lost = Unavailable("The model's server went away while it answered. Try again.", retry_after_s=RETRY_AFTER_S)
        self._count_failover(lost)
        self._failure = None
        if has_started:
            self._deadline_s = time.monotonic() + FAILOVER_TIMEOUT_S

    def _count_failover(self, error: ServiceError) -> None:
        limit = 1 if isinstance(error, InternalError) else MAX_FAILOVERS
        self._num_failovers += 1
        if self._num_failovers > limit:
            raise error

    async def _ask_for_one(self, failed: list[ReplicaAddress]) -> None:
        now_s = time.monotonic()
        if failed and (self._has_seen_one or (self._asked_at_s and now_s - self._asked_at_s > FAILED_GRACE_S)):
            reason = failed[0].error or "see the server's log"
            raise Unavailable(
                f"The model '{self.model.name}' could not be loaded: {reason}",
                code="model_load_failed",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._asked_at_s is None or now_s - self._asked_at_s > FAILED_GRACE_S:
            self._asked_at_s = self._asked_at_s or now_s
            await directory.request_replica(self.model.id)


def _choose(ready: list[ReplicaLink], affinity: str) -> ReplicaLink:
    """The least loaded; among those about as loaded, always the same one for the same beginning of the prompt."""
    if len(ready) == 1:
        return ready[0]
    bound = min(link.load for link in ready) + AFFINITY_SLACK
    candidates = [link for link in ready if link.load <= bound]
    if not affinity:
        return min(candidates, key=lambda link: link.load)
    # Rendezvous hashing: when a replica comes or goes, only its own share of the prefixes moves.
    return max(candidates, key=lambda link: crc32(f"{link.replica_id}\0{affinity}".encode(errors="replace")))


def find_affinity(request: AnyRequest) -> str:
    """The beginning of the prompt, as far as it decides which replica may have it in its prefix cache."""
    if not isinstance(request, GenerationRequest):
        return ""
    if request.prompt is not None:
        return str(request.prompt[:AFFINITY_CHARS])
    return str((request.messages or [{}])[0].get("content"))[:AFFINITY_CHARS]
