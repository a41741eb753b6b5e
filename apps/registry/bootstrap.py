"""What an installation has from its first start on: a team, an administrator, an API key, the demo model.

Idempotent, and safe when several processes run it at once: each thing is made by exactly one of them.
"""

import secrets
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from apps.accounts.keys import create_key, hash_key
from apps.accounts.models import APIKey, Membership, Role, Team, User
from apps.registry.models import HostedModel

TEAM_SLUG = "first-team"
DEMO_MODEL_NAME = "atrium-demo"


class FirstCredentials(NamedTuple):
    """What this call has made; None where it was there before. The only moment at which the secrets are known."""

    username: str
    password: str | None
    api_key: str | None


def bootstrap(*, username: str, password: str = "", api_key: str = "") -> FirstCredentials:
    """Make what is missing. Blocking.

    A given password is used for a new administrator only, never for one that exists. A given API key is made to exist,
    whatever other keys there are; none given, one is generated only when the team has never had a key.
    """
    with transaction.atomic():
        Team.objects.get_or_create(slug=TEAM_SLUG, defaults={"name": "First team"})
        team = Team.objects.select_for_update().get(slug=TEAM_SLUG)  # the row is the lock between processes
        user, new_password = _ensure_admin(username, password)
        Membership.objects.get_or_create(team=team, user=user, defaults={"role": Role.OWNER})
        new_key = _ensure_key(team, user, api_key)
        # float32: it is small, and in bfloat16 a near tie may fall otherwise in another batch.
        HostedModel.objects.get_or_create(
            name=DEMO_MODEL_NAME,
            defaults={"source": str(settings.BASE_DIR / "demo_model"), "dtype": "float32", "idle_timeout_s": 0},
        )
    return FirstCredentials(username, new_password, new_key)


def _ensure_admin(username: str, password: str) -> tuple[User, str | None]:
    user = User.objects.filter(username=username).first()
    if user is not None:
        return user, None
    password = password or secrets.token_urlsafe(12)
    return User.objects.create_superuser(username, password=password), password


def _ensure_key(team: Team, user: User, secret: str) -> str | None:
    keys = APIKey.objects.filter(key_hash=hash_key(secret)) if secret else APIKey.objects.filter(team=team)
    if keys.exists():
        return None
    return create_key(team=team, user=user, name="first key", secret=secret or None).secret
