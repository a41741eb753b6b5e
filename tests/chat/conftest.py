"""What the chat's tests share: a person with a page, a scripted model, and no answer left over."""

from collections.abc import AsyncIterator

import pytest

from apps.accounts.models import Team, User
from apps.inference import runs
from apps.inference.pool import get_pool
from apps.registry.models import HostedModel
from tests.chat.page import log_in
from tests.factories import make_team, make_user
from tests.scripted_fixtures import scripted_model, worker

__all__ = ["scripted_model", "worker"]  # fixtures


@pytest.fixture
def team(transactional_db: None) -> Team:
    return make_team("Research")


@pytest.fixture
def user(team: Team) -> User:
    return make_user("mina", team=team)


@pytest.fixture
def cookie(user: User) -> str:
    """The session of `user`."""
    return log_in(user)


@pytest.fixture
async def chat(scripted_model: HostedModel) -> AsyncIterator[None]:
    """The model "scripted" for the chat; no answer and no link outlives its test, nor the fixtures it needs."""
    yield
    await runs.shutdown()
    await get_pool().close()
