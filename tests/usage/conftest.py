"""Ledger tests: callers that exist in the database, and a recorder that leaves nothing behind."""

from collections.abc import Callable, Iterator

import pytest

from apps.accounts.caller import Caller
from apps.usage.entry import Entry
from apps.usage.recorder import Recorder
from tests.factories import make_team, make_user


@pytest.fixture
def caller(transactional_db: None) -> Caller:
    """A member of a team."""
    team = make_team()
    user = make_user(team=team)
    return Caller(user_id=user.pk, username=user.username, team_id=team.pk)


@pytest.fixture
def recorder(transactional_db: None) -> Iterator[Recorder]:
    """A recorder of the test's own, closed at its end."""
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture
def make_entry(caller: Caller) -> Callable[..., Entry]:
    """Makes lines for the ledger; called inside an event loop."""

    def make(request_id: str, **fields: object) -> Entry:
        values = {"caller": caller, "model_name": "m", "revision": "", "endpoint": "test", "streamed": True}
        return Entry(id=request_id, **{**values, **fields})  # type: ignore[arg-type]

    return make
