"""The transition table, and that a move is made once."""

import pytest

from apps.registry.models import Replica, ReplicaState
from apps.registry.states import LIVE_STATES, PROCESS_STATES, TRANSITIONS, InvalidTransition, transition
from tests.factories import make_model, make_replica


def test_every_state_has_its_moves_and_stopped_is_the_only_end():
    assert set(TRANSITIONS) == set(ReplicaState)
    assert [state for state, moves in TRANSITIONS.items() if not moves] == [ReplicaState.STOPPED]


def test_every_state_is_reached_and_can_come_to_its_end():
    reached = {ReplicaState.REQUESTED}.union(*TRANSITIONS.values())
    assert reached == set(ReplicaState)
    for start in ReplicaState:
        seen = {start}
        while more := {move for state in seen for move in TRANSITIONS[state]} - seen:
            seen |= more
        assert ReplicaState.STOPPED in seen


def test_a_process_never_goes_unwatched():
    """From a state with a process, STOPPED is reached only through states that end the process."""
    for state in PROCESS_STATES - {ReplicaState.DRAINING}:
        assert ReplicaState.STOPPED not in TRANSITIONS[state]
    assert ReplicaState.DRAINING not in LIVE_STATES


@pytest.mark.parametrize("start", ReplicaState)
@pytest.mark.parametrize("end", ReplicaState)
def test_only_the_moves_of_the_table_are_made(db, start, end):
    replica = make_replica(make_model(), state=start)
    if end in TRANSITIONS[start]:
        assert transition(replica, end, stage="moved")
        assert Replica.objects.get().state == end
        assert Replica.objects.get().stage == "moved"
    else:
        with pytest.raises(InvalidTransition):
            transition(replica, end)
        assert Replica.objects.get().state == start


def test_of_two_who_saw_the_same_state_one_moves(db):
    first = make_replica(make_model(), state=ReplicaState.READY)
    second = Replica.objects.get()
    assert transition(first, ReplicaState.DRAINING)
    assert not transition(second, ReplicaState.REQUESTED, num_restarts=1)
    row = Replica.objects.get()
    assert (row.state, row.num_restarts) == (ReplicaState.DRAINING, 0)
