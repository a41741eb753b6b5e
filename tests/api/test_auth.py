"""API keys: made, read, cached, expired and revoked."""

import asyncio
import base64
from datetime import timedelta

import pytest
from django.utils import timezone

from apps.accounts.auth import authenticate, caller_for_user
from apps.accounts.keys import create_key, hash_key, revoke_key
from apps.accounts.models import APIKey
from apps.core.db import run_db
from apps.core.errors import AuthenticationFailed, PermissionDenied
from tests.factories import make_key, make_team, make_user

pytestmark = pytest.mark.django_db(transaction=True)


def bearer(secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {secret}".encode())]


async def test_secret_is_shown_once_and_only_its_hash_is_stored() -> None:
    key, secret = await run_db(make_key)
    stored = await run_db(APIKey.objects.get, pk=key.pk)
    assert secret.startswith("atr_")
    assert len(secret) == 4 + 43
    assert stored.key_hash == hash_key(secret)
    assert stored.prefix == secret[:8]


@pytest.mark.parametrize("scheme", ["bearer", "x-api-key", "basic"])
async def test_key_is_read_from_every_place_clients_put_it(scheme: str) -> None:
    key, secret = await run_db(make_key)
    headers = {
        "bearer": bearer(secret),
        "x-api-key": [(b"x-api-key", secret.encode())],
        "basic": [(b"authorization", b"Basic " + base64.b64encode(f"anyone:{secret}".encode()))],
    }[scheme]
    caller = await authenticate(headers)
    assert (caller.key_id, caller.user_id, caller.team_id) == (key.pk, key.user_id, key.team_id)
    assert not caller.is_admin


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer("atr_unknown-but-long-enough"),
        bearer(""),
        [(b"authorization", b"Basic !!!")],
        [(b"authorization", b"Bearer \xff\xfe")],
    ],
)
async def test_no_key_or_a_wrong_one_is_told_where_keys_are(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(AuthenticationFailed, match="/keys"):
        await authenticate(headers)


async def test_revoked_key_stops_at_once_although_cached() -> None:
    key, secret = await run_db(make_key)
    await authenticate(bearer(secret))
    await run_db(revoke_key, key)
    with pytest.raises(AuthenticationFailed):
        await authenticate(bearer(secret))


async def test_cached_key_needs_no_database() -> None:
    _, secret = await run_db(make_key)
    first = await authenticate(bearer(secret))
    await run_db(APIKey.objects.all().delete)  # behind the back of `revoke_key`, as another process would
    assert await authenticate(bearer(secret)) == first


async def test_cache_ends_after_its_ttl(settings: object) -> None:
    settings.AUTH_CACHE_TTL_S = 0
    _, secret = await run_db(make_key)
    await authenticate(bearer(secret))
    await run_db(APIKey.objects.all().delete)
    with pytest.raises(AuthenticationFailed):
        await authenticate(bearer(secret))


async def test_expired_key_is_refused() -> None:
    _, secret = await run_db(make_key, expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(AuthenticationFailed):
        await authenticate(bearer(secret))


async def test_key_of_a_user_who_left_is_refused() -> None:
    key, secret = await run_db(make_key)
    await run_db(key.user.memberships.all().delete)
    with pytest.raises(AuthenticationFailed):
        await authenticate(bearer(secret))


async def test_key_of_a_deactivated_user_is_refused() -> None:
    user = await run_db(make_user, team=await run_db(make_team), is_active=False)
    _, secret = await run_db(make_key, user=user)
    with pytest.raises(AuthenticationFailed):
        await authenticate(bearer(secret))


async def test_a_key_tried_before_it_existed_works_once_made() -> None:
    team = await run_db(make_team)
    user = await run_db(make_user, team=team)
    secret = "fixed-secret-of-the-operator"
    with pytest.raises(AuthenticationFailed):
        await authenticate(bearer(secret))
    await run_db(create_key, team=team, user=user, name="fixed", secret=secret)
    assert (await authenticate(bearer(secret))).username == user.username


@pytest.mark.parametrize("secret", ["short", "with a space in it here", "ümlaut-ümlaut-ümlaut", "x" * 201])
def test_unusable_fixed_secrets_are_refused(secret: str) -> None:
    team = make_team()
    with pytest.raises(ValueError, match="key"):
        create_key(team=team, user=make_user(team=team), name="fixed", secret=secret)


async def test_use_is_noted() -> None:
    key, secret = await run_db(make_key)
    await authenticate(bearer(secret))
    async with asyncio.timeout(30):  # nobody waits for the note, and either database thread may write it
        while (await run_db(APIKey.objects.get, pk=key.pk)).last_used_at is None:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


def test_session_user_calls_as_the_first_team() -> None:
    first, second = make_team(), make_team()
    user = make_user(team=first)
    user.teams.add(second)
    assert caller_for_user(user).team_id == first.pk


def test_session_user_without_a_team_may_not_call() -> None:
    with pytest.raises(PermissionDenied):
        caller_for_user(make_user())
