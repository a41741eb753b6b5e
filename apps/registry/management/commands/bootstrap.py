"""`manage.py bootstrap`: first team, administrator, API key, demo model. The work is in `apps.registry.bootstrap`."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.registry.bootstrap import FirstCredentials, bootstrap


def bootstrap_from_settings() -> FirstCredentials:
    """With the credentials that the environment fixes. Raises CommandError for ones that cannot be."""
    try:
        return bootstrap(
            username=settings.BOOTSTRAP_ADMIN_USERNAME,
            password=settings.BOOTSTRAP_ADMIN_PASSWORD,
            api_key=settings.BOOTSTRAP_API_KEY,
        )
    except ValueError as error:
        raise CommandError(f"ATRIUM_API_KEY: {error}") from error


def describe_credentials(made: FirstCredentials) -> list[str]:
    """Lines for the terminal. A secret that the environment gave is not repeated."""
    lines = []
    if made.password is None:
        lines.append(f"Admin     {made.username} (password as set before; manage.py changepassword {made.username})")
    elif settings.BOOTSTRAP_ADMIN_PASSWORD:
        lines.append(f"Admin     {made.username}, password from ATRIUM_ADMIN_PASSWORD")
    else:
        lines.append(f"Admin     {made.username}, password {made.password}   (shown this once)")
    if made.api_key is None:
        lines.append("API key   made before (a new one: page /keys, or manage.py keys create NAME)")
    elif settings.BOOTSTRAP_API_KEY:
        lines.append("API key   from ATRIUM_API_KEY")
    else:
        lines.append(f"API key   {made.api_key}   (shown this once)")
    return lines


class Command(BaseCommand):
    help = "Makes the first team, administrator, API key and the demo model, each unless it is there."

    def handle(self, *args: Any, **options: Any) -> None:
        for line in describe_credentials(bootstrap_from_settings()):
            self.stdout.write(line)
