"""The only place where a key or a session becomes a Caller."""

import asyncio
import base64
import binascii
from collections.abc import Iterable
from datetime import timedelta
from typing import cast

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request

from apps.accounts.caller import Caller
from apps.accounts.caller_cache import caller_cache
from apps.accounts.keys import hash_key
from apps.accounts.models import APIKey, Membership, User
from apps.core.db import run_db, submit_db
from apps.core.errors import AuthenticationFailed, PermissionDenied

NEGATIVE_TTL_S = 1.0  # an unknown key is asked for again soon: it may have been made meanwhile
LAST_USED_STEP = timedelta(minutes=1)  # `last_used_at` is written at most so often per key

_lookups: dict[tuple[int, str], asyncio.Task[Caller | None]] = {}


async def authenticate(headers: Iterable[tuple[bytes, bytes]]) -> Caller:
    """Whose key these ASGI headers carry. Raises AuthenticationFailed. Asks the database at most once per TTL."""
    secret = find_secret(headers)
    if secret is None:
        raise _make_failure("No API key was given.")
    key_hash = hash_key(secret)
    entry = caller_cache.get(key_hash)
    caller = entry.caller if entry is not None else await _look_up_once(key_hash)
    if caller is None:
        raise _make_failure("Incorrect API key provided.")
    return caller


def find_secret(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in `Authorization: Bearer`, in `x-api-key`, or as the password of `Authorization: Basic`.

    Basic is what clients send that were given http://user:KEY@host as their base URL, `transformers chat` for one.
    None when no key is there; a text that cannot be a key counts as a wrong key, not as none.
    """
    secret = None
    for name, value in headers:
        if name == b"authorization":
            return _read_authorization(value)
        if name == b"x-api-key" and value:
            secret = value.decode("latin-1").strip()
    return secret


def caller_for_user(user: User) -> Caller:
    """The Caller behind a browser session: the user in the team joined first. Blocking.

    Raises PermissionDenied for somebody without a team.
    """
    team_id = Membership.objects.filter(user=user).order_by("pk").values_list("team_id", flat=True).first()
    if team_id is None:
        raise PermissionDenied("You are in no team yet. Ask an administrator to add you to one.")
    return Caller(user_id=user.pk, username=user.username, team_id=team_id, is_admin=user.is_superuser)


def restore_caller(*, user_id: int, team_id: int, key_id: int | None) -> Caller | None:
    """Whose work it is that goes on without its client, as of now. Blocking.

    None once the key has ended, or the person has left the team or may not sign in any more. `key_id` None: it was
    asked for in a browser session.
    """
    membership = (
        Membership.objects.filter(team=team_id, user=user_id, user__is_active=True).select_related("user").first()
    )
    if membership is None:
        return None
    if key_id is not None:
        key = APIKey.objects.filter(pk=key_id, user=user_id, team=team_id).first()
        if key is None or not key.is_active:
            return None
    user = membership.user
    return Caller(user_id=user.pk, username=user.username, team_id=team_id, key_id=key_id, is_admin=user.is_superuser)


def get_caller(request: Request) -> Caller:
    """Who asks, in a DRF view that lets in nobody unknown."""
    return cast(Caller, request.auth)


class CallerAuthentication(SessionAuthentication):
    """DRF: an API key first, else the browser session (with its CSRF check). `request.auth` is the Caller."""

    def authenticate(self, request: Request) -> tuple[User, Caller]:
        """Raises AuthenticationFailed for a wrong key, and when neither key nor session is there."""
        secret = find_secret((name.lower().encode(), value.encode()) for name, value in request.headers.items())
        if secret is None:
            signed_in = super().authenticate(request)
            if signed_in is None:
                raise _make_failure("No API key was given.")
            return signed_in[0], caller_for_user(signed_in[0])
        key_hash = hash_key(secret)
        entry = caller_cache.get(key_hash)
        caller = entry.caller if entry is not None else _look_up(key_hash)
        if caller is None:
            raise _make_failure("Incorrect API key provided.")
        return User(pk=caller.user_id, username=caller.username), caller

    def authenticate_header(self, request: Request) -> str:
        """Makes DRF answer 401, not 403, to nobody."""
        return "Bearer"


def _read_authorization(value: bytes) -> str | None:
    scheme, _, credentials = value.decode("latin-1").partition(" ")
    credentials = credentials.strip()
    if scheme.lower() == "basic":
        try:
            credentials = base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return credentials or None


async def _look_up_once(key_hash: str) -> Caller | None:
    """One database look-up for all requests that wait for the same key."""
    # Short of a cache, 300 requests that arrive together would queue 300 look-ups. Tasks belong to their loop.
    slot = (id(asyncio.get_running_loop()), key_hash)
    task = _lookups.get(slot)
    if task is None:
        task = _lookups[slot] = asyncio.create_task(run_db(_look_up, key_hash))
        task.add_done_callback(lambda _: _lookups.pop(slot, None))
    return await asyncio.shield(task)  # the client that came first may leave: the others still wait


def _look_up(key_hash: str) -> Caller | None:
    """Ask the database and keep the answer. Blocking."""
    generation = caller_cache.generation
    now = timezone.now()
    is_member = Membership.objects.filter(team=OuterRef("team"), user=OuterRef("user"))
    key = (
        APIKey.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), Exists(is_member), key_hash=key_hash)
        .filter(revoked_at=None, user__is_active=True)
        .select_related("user")
        .first()
    )
    if key is None:
        caller_cache.put(key_hash, None, min(NEGATIVE_TTL_S, settings.AUTH_CACHE_TTL_S), generation)
        return None
    caller = Caller(
        user_id=key.user_id,
        username=key.user.username,
        team_id=key.team_id,
        key_id=key.pk,
        is_admin=key.user.is_superuser,
    )
    ttl_s = settings.AUTH_CACHE_TTL_S
    if key.expires_at is not None:
        ttl_s = min(ttl_s, (key.expires_at - now).total_seconds())
    caller_cache.put(key_hash, caller, ttl_s, generation)
    if key.last_used_at is None or now - key.last_used_at > LAST_USED_STEP:
        submit_db(_mark_used, key.pk)
    return caller


def _mark_used(key_id: int) -> None:
    APIKey.objects.filter(pk=key_id).update(last_used_at=timezone.now())


def _make_failure(what: str) -> AuthenticationFailed:
    where = f"at {settings.PUBLIC_BASE_URL}/keys" if settings.PUBLIC_BASE_URL else "on this server's page /keys"
    return AuthenticationFailed(f"{what} Send it as 'Authorization: Bearer KEY'. You find your keys {where}.")
