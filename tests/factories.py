"""Rows for tests: plain functions with sensible defaults, each writing through the real models. All block."""

import itertools
from typing import Any

from apps.accounts.keys import NewKey, create_key
from apps.accounts.models import Membership, Role, Team, User
from apps.registry import directory
from apps.registry.models import HostedModel, Node, Replica, ReplicaState

_counter = itertools.count(1)


def make_user(username: str | None = None, *, team: Team | None = None, role: str = Role.MEMBER, **fields: Any) -> User:
    """A user who can sign in with the password `password`; a member of `team` where one is given."""
    user = User(username=username or f"user{next(_counter)}", **fields)
    user.set_password("password")
    user.save()
    if team is not None:
        Membership.objects.create(team=team, user=user, role=role)
    return user


def make_team(name: str | None = None) -> Team:
    """A team without members."""
    name = name or f"Team {next(_counter)}"
    return Team.objects.create(name=name, slug=name.lower().replace(" ", "-"))


def make_key(*, team: Team | None = None, user: User | None = None, name: str = "test", **options: Any) -> NewKey:
    """A key, with a team and a member made for it where none is given."""
    team = team or (user.teams.first() if user is not None else None) or make_team()
    user = user or make_user(team=team)
    Membership.objects.get_or_create(team=team, user=user)
    return create_key(team=team, user=user, name=name, **options)


def make_model(name: str = "test-model", *, teams: tuple[Team, ...] = (), **fields: Any) -> HostedModel:
    """An enabled model that the given teams may use, or everybody."""
    model = HostedModel.objects.create(name=name, source=fields.pop("source", name), **fields)
    model.teams.set(teams)
    directory.invalidate()
    return model


def make_replica(
    model: HostedModel, *, host: str = "127.0.0.1", port: int | None = None, token: str = "", **fields: Any
) -> Replica:
    """A replica that is ready, at this address."""
    node, _ = Node.objects.get_or_create(name="local")
    fields.setdefault("state", ReplicaState.READY)
    replica = Replica.objects.create(model=model, node=node, host=host, port=port, token=token, **fields)
    directory.invalidate()
    return replica
