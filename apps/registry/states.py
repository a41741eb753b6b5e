"""Which moves a replica may make, and how one is made: compare-and-swap in the database, never a lock.

               ┌────────────── restart ───────────────┐
               ▼                                      │
REQUESTED → STARTING → LOADING → READY → DRAINING → STOPPED
    │          │          │        │         │
    └──────────┴──────────┴────────┴─────────┴──► FAILED → STOPPED
"""

from typing import Any

from django.utils import timezone

from apps.registry.models import Replica, ReplicaState

_S = ReplicaState

# A process that died is requested again: STARTING, LOADING and READY lead back to REQUESTED.
TRANSITIONS: dict[ReplicaState, frozenset[ReplicaState]] = {
    _S.REQUESTED: frozenset({_S.STARTING, _S.FAILED, _S.STOPPED}),
    _S.STARTING: frozenset({_S.LOADING, _S.READY, _S.REQUESTED, _S.DRAINING, _S.FAILED}),
    _S.LOADING: frozenset({_S.READY, _S.REQUESTED, _S.DRAINING, _S.FAILED}),
    _S.READY: frozenset({_S.REQUESTED, _S.DRAINING, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.FAILED: frozenset({_S.STOPPED}),
    _S.STOPPED: frozenset(),
}

# Serving, or on the way to it.
LIVE_STATES = frozenset({_S.REQUESTED, _S.STARTING, _S.LOADING, _S.READY})
# There may be a process.
PROCESS_STATES = frozenset({_S.STARTING, _S.LOADING, _S.READY, _S.DRAINING})


class InvalidTransition(Exception):
    """A move that TRANSITIONS does not allow: a fault of ours."""


def transition(replica: Replica, to: ReplicaState, **fields: Any) -> bool:
    """Move a replica from the state this object shows to another, writing `fields` in the same statement. Blocking.

    False when somebody else moved it first: then nothing is written, and the caller leaves it to them. On success
    the object shows what was written. Raises InvalidTransition for a move that is never allowed.
    """
    if to not in TRANSITIONS[ReplicaState(replica.state)]:
        raise InvalidTransition(f"{replica.state} to {to}")
    values = {**fields, "state": to, "state_changed_at": timezone.now()}
    if Replica.objects.filter(pk=replica.pk, state=replica.state).update(**values) != 1:
        return False
    for name, value in values.items():
        setattr(replica, name, value)
    return True
