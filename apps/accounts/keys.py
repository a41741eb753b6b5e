"""How an API key is made, stored and ended. Reading one from a request is in `auth.py`."""

import hashlib
import secrets
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.utils import timezone

from apps.accounts.caller_cache import caller_cache
from apps.accounts.models import APIKey, Team, User

KEY_PREFIX = "atr_"
MIN_SECRET_LENGTH = 16
MAX_SECRET_LENGTH = 200
_SHOWN_LENGTH = 8  # of the secret, kept readable so that people can tell keys apart


class NewKey(NamedTuple):
    """A key just made: the only moment at which its secret is known."""

    key: APIKey
    secret: str


def hash_key(secret: str) -> str:
    """SHA-256 in hex. Fast on purpose: a key is 256 random bits, there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(
    *, team: Team, user: User, name: str, expires_at: datetime | None = None, secret: str | None = None
) -> NewKey:
    """Store a new key and return it with its secret. Blocking.

    A given `secret` may have any form of 16 to 200 visible ASCII characters; else ValueError.
    """
    if secret is None:
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
    elif not (MIN_SECRET_LENGTH <= len(secret) <= MAX_SECRET_LENGTH and secret.isascii() and secret.isprintable()):
        raise ValueError(f"a key needs {MIN_SECRET_LENGTH} to {MAX_SECRET_LENGTH} printable ASCII characters")
    elif " " in secret:
        raise ValueError("a key cannot hold spaces")
    key = APIKey.objects.create(
        team=team,
        user=user,
        name=name,
        prefix=secret[:_SHOWN_LENGTH],
        key_hash=hash_key(secret),
        expires_at=expires_at,
    )
    _forget(key)  # it may have been tried before it existed
    return NewKey(key, secret)


def revoke_key(key: APIKey) -> None:
    """End a key for good: at once in this process, within AUTH_CACHE_TTL_S in others. Blocking, idempotent."""
    APIKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
    key.refresh_from_db(fields=["revoked_at"])
    _forget(key)


def _forget(key: APIKey) -> None:
    # And once more after the commit: a look-up in between still reads the state from before the transaction.
    caller_cache.forget(key.key_hash)
    transaction.on_commit(lambda: caller_cache.forget(key.key_hash))
