"""The order in which waiting requests are admitted: by priority, then by fair share between users.

Fair share follows the virtual token counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024):
every user has a counter of tokens served, divided by the user's weight, and the user with the lowest goes next.
A user who comes back after a pause starts no lower than the users now active, so idle time earns no credit.
"""

from collections import deque
from collections.abc import Iterator

from gpu_worker.engine.request import Request

_MAX_REMEMBERED_USERS = 10_000


class WaitingQueue:
    """Waiting requests, and what every user has been served. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[tuple[int, str], deque[Request]] = {}
        self._served: dict[str, float] = {}  # virtual tokens, by user
        self._num_active: dict[str, int] = {}  # requests that wait or run, by user

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Request]:
        for queue in self._queues.values():
            yield from queue

    def push(self, request: Request) -> None:
        """A new request: last of its user's."""
        user = request.user
        if user not in self._num_active:
            self._served[user] = max(self._served.get(user, 0.0), self._floor())
        self._num_active[user] = self._num_active.get(user, 0) + 1
        self._queue_of(request).append(request)

    def push_front(self, request: Request) -> None:
        """A preempted request: first of its user's again."""
        self._queue_of(request).appendleft(request)

    def push_back(self, request: Request) -> None:
        """A request that has had its turn and wants another: last of its user's again."""
        self._queue_of(request).append(request)

    def peek(self) -> Request | None:
        """The request to admit next, if any waits."""
        if not self._queues:
            return None
        return min((queue[0] for queue in self._queues.values()), key=self.rank)

    def rank(self, request: Request) -> tuple[int, float, float]:
        """The order of fair share, lowest first, among requests that wait or run: priority, what the user was
        served, arrival."""
        return request.priority, self._served[request.user], request.arrival_s

    def remove(self, request: Request) -> None:
        """Take a waiting request out: it was admitted, or it has ended."""
        key = (request.priority, request.user)
        self._queues[key].remove(request)
        if not self._queues[key]:
            del self._queues[key]

    def charge(self, request: Request, num_tokens: int) -> None:
        """Count tokens computed for a request against its user."""
        self._served[request.user] += num_tokens / request.weight

    def leave(self, request: Request) -> None:
        """The request has ended, however it did."""
        user = request.user
        self._num_active[user] -= 1
        if self._num_active[user] == 0:
            del self._num_active[user]
            if len(self._served) > _MAX_REMEMBERED_USERS:
                floor = self._floor()
                self._served = {u: s for u, s in self._served.items() if u in self._num_active or s > floor}

    def estimate_position(self, request: Request) -> int | None:
        """About how many go before this one if users take turns from now on; None when it does not wait."""
        key = (request.priority, request.user)
        if request not in self._queues.get(key, ()):
            return None
        turn, first = self._queues[key].index(request), self.rank(self._queues[key][0])
        ahead = turn
        for other, queue in self._queues.items():
            if other[0] < key[0]:
                ahead += len(queue)
            elif other[0] == key[0] and other != key:
                ahead += min(len(queue), turn + (self.rank(queue[0]) < first))
        return ahead

    def _queue_of(self, request: Request) -> deque[Request]:
        return self._queues.setdefault((request.priority, request.user), deque())

    def _floor(self) -> float:
        if not self._num_active:
            return max(self._served.values(), default=0.0)
        return min(self._served[user] for user in self._num_active)
