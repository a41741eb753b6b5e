"""Who may see which model: the one rule, for rows and for snapshots alike."""

from django.db.models import Q, QuerySet

from apps.accounts.caller import Caller
from apps.registry.models import HostedModel


def may_use(caller: Caller, *, enabled: bool, team_ids: frozenset[int]) -> bool:
    """An enabled model is everybody's, or that of the teams it names. Administrators get no exception: they
    manage models in the admin and use them as members of a team."""
    return enabled and (not team_ids or caller.team_id in team_ids)


def list_models_of_teams(team_ids: list[int]) -> QuerySet[HostedModel]:
    """The same rule as a query, for a person who is in several teams."""
    return HostedModel.objects.filter(Q(teams=None) | Q(teams__in=team_ids), enabled=True).distinct()
