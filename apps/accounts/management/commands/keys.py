"""`manage.py keys create | list | revoke`: API keys from the terminal."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.accounts.keys import create_key, revoke_key
from apps.accounts.models import APIKey, Membership


class Command(BaseCommand):
    help = "Creates, lists and revokes API keys. A key's secret is printed once, at its creation."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create")
        create.add_argument("name")
        create.add_argument("--user", help="whose; default: the first administrator")
        create.add_argument("--team", help="slug; default: the team that the user joined first")
        create.add_argument("--expires-in-days", type=int)
        actions.add_parser("list")
        revoke = actions.add_parser("revoke")
        revoke.add_argument("key", help="number or prefix, as `keys list` shows it")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["action"]:
            case "create":
                self._create(options)
            case "list":
                self._list()
            case "revoke":
                self._revoke(options["key"])

    def _create(self, options: dict[str, Any]) -> None:
        memberships = Membership.objects.select_related("user", "team").order_by("pk")
        if options["team"]:
            memberships = memberships.filter(team__slug=options["team"])
        if options["user"]:
            memberships = memberships.filter(user__username=options["user"])
        else:
            memberships = memberships.filter(user__is_superuser=True)
        membership = memberships.first()
        if membership is None:
            raise CommandError("No such member of a team. Name one with --user and --team, or run bootstrap first.")
        days = options["expires_in_days"]
        expires_at = None if days is None else timezone.now() + timedelta(days=days)
        made = create_key(team=membership.team, user=membership.user, name=options["name"], expires_at=expires_at)
        self.stdout.write(made.secret)

    def _list(self) -> None:
        for key in APIKey.objects.select_related("user", "team"):
            state = "active" if key.is_active else "revoked" if key.revoked_at else "expired"
            self.stdout.write(f"{key.pk}\t{key.prefix}\t{state}\t{key.user}\t{key.team.slug}\t{key.name}")

    def _revoke(self, text: str) -> None:
        keys = list(APIKey.objects.filter(prefix=text))
        if not keys and text.isdecimal():
            keys = list(APIKey.objects.filter(pk=int(text)))
        if len(keys) != 1:
            raise CommandError(f"{'Several keys begin' if keys else 'No key begins'} with {text}: see `keys list`.")
        revoke_key(keys[0])
        self.stdout.write(f"Revoked: {keys[0]}")
