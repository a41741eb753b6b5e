"""Login, languages, API keys and the policy that every page carries."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from apps.accounts.keys import hash_key
from apps.accounts.models import APIKey, User
from apps.core import csp
from tests.factories import make_key, make_model, make_team, make_user


@pytest.fixture
def user(db: None) -> User:
    return make_user("mina", team=make_team("Research"))


@pytest.fixture
def page(user: User) -> Client:
    """A browser in which `user` is logged in."""
    client = Client()
    client.force_login(user)
    return client


def test_login_leads_to_where_one_wanted_to_go(client: Client, user: User) -> None:
    response = client.post("/login", {"username": "mina", "password": "password", "next": "/keys"})
    assert (response.status_code, response["Location"]) == (302, "/keys")


def test_login_never_leads_to_another_site(client: Client, user: User) -> None:
    response = client.post("/login", {"username": "mina", "password": "password", "next": "https://evil.example/"})
    assert (response.status_code, response["Location"]) == (302, "/")


def test_wrong_password_is_told_and_the_name_is_kept(client: Client, user: User) -> None:
    response = client.post("/login", {"username": "mina", "password": "wrong"})
    text = response.content.decode()
    assert 'role="alert"' in text
    assert 'value="mina"' in text
    assert "_auth_user_id" not in client.session


def test_who_guesses_passwords_has_to_wait(client: Client, user: User, settings: Any) -> None:
    make_user("juno")
    for _ in range(settings.AXES_FAILURE_LIMIT):
        response = client.post("/login", {"username": "mina", "password": "wrong"})
    assert response.status_code == 429
    assert "Too many attempts" in response.content.decode()
    right = {"username": "mina", "password": "password"}
    assert client.post("/login", right).status_code == 429
    assert client.post("/admin/login/", right).status_code == 429
    # neither other people at that address nor the person elsewhere
    assert client.post("/login", right | {"username": "juno"}).status_code == 302
    assert client.post("/login", right, REMOTE_ADDR="192.0.2.7").status_code == 302


def test_whether_anybody_is_there_can_be_asked_without_a_page(client: Client, page: Client) -> None:
    """Claude Code does, of its base URL, before its first request."""
    assert (client.head("/").status_code, client.head("/login").status_code) == (302, 200)
    answer = page.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


def test_logout_needs_a_post(page: Client) -> None:
    assert page.get("/logout").status_code == 405
    assert page.post("/logout").status_code == 302
    assert page.get("/keys").status_code == 302


@pytest.mark.parametrize("path", ["/", "/keys", "/login", "/nothing-here"])
def test_every_page_forbids_foreign_and_inline_scripts(path: str, user: User) -> None:
    client = Client()
    if path != "/login":
        client.force_login(user)
    response = client.get(path)
    assert response["Content-Security-Policy"] == csp.STRICT
    text = response.content.decode()
    assert not re.search(r"<script(?![^>]*(src=|application/json))", text)
    assert not re.search(r"\s(on\w+|style)=", text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


def test_admin_has_its_own_policy(client: Client, db: None) -> None:
    assert client.get("/admin/login/")["Content-Security-Policy"] == csp.ADMIN


def test_json_has_no_policy(client: Client, db: None) -> None:
    assert "Content-Security-Policy" not in client.get("/health")


def test_key_is_shown_once_and_stored_as_a_hash(page: Client, user: User) -> None:
    make_model("demo/small")
    response = page.post("/keys", {"name": "laptop", "expires_in": "30", "team": user.teams.get().pk})
    text = response.content.decode()
    found = re.search(r'id="secret">(atr_[\w-]{43})<', text)
    assert found, text
    secret = found[1]
    assert f"Authorization: Bearer {secret}" in text
    assert "http://testserver/v1/chat/completions" in text
    assert "demo/small" in text
    assert "no-store" in response["Cache-Control"]
    key = APIKey.objects.get()
    assert (key.user, key.name, key.key_hash) == (user, "laptop", hash_key(secret))
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
    assert secret not in page.get("/keys").content.decode()


def test_public_base_url_is_what_the_examples_say(page: Client, user: User, settings: object) -> None:
    settings.PUBLIC_BASE_URL = "https://atrium.example"
    response = page.post("/keys", {"name": "laptop", "expires_in": "", "team": user.teams.get().pk})
    assert "https://atrium.example/v1/chat/completions" in response.content.decode()
    assert APIKey.objects.get().expires_at is None


def test_key_without_a_name_is_not_made(page: Client, user: User) -> None:
    response = page.post("/keys", {"name": " ", "team": user.teams.get().pk})
    assert response.status_code == 400
    assert APIKey.objects.count() == 0


def test_key_for_a_team_of_others_is_not_made(page: Client) -> None:
    response = page.post("/keys", {"name": "laptop", "team": make_team("Others").pk})
    assert response.status_code == 400
    assert APIKey.objects.count() == 0


def test_person_without_a_team_is_told_so(client: Client, db: None) -> None:
    client.force_login(make_user("lonely"))
    text = client.get("/keys").content.decode()
    assert "You are in no team yet" in text
    assert "Create key" not in text


def test_only_ones_own_keys_are_listed(page: Client, user: User) -> None:
    make_key(user=user, name="my key")
    make_key(team=user.teams.get(), user=make_user("teammate", team=user.teams.get()), name="their key")
    text = page.get("/keys").content.decode()
    assert "my key" in text
    assert "their key" not in text


@pytest.mark.parametrize("relation", ["teammate", "outsider"])
def test_another_persons_key_cannot_be_revoked(page: Client, user: User, relation: str) -> None:
    other = make_user(relation, team=user.teams.get() if relation == "teammate" else make_team("Others"))
    key = make_key(user=other).key
    assert page.post(f"/keys/{key.pk}/revoke").status_code == 404
    key.refresh_from_db()
    assert key.is_active


def test_own_key_is_revoked(page: Client, user: User) -> None:
    key = make_key(user=user).key
    assert page.get(f"/keys/{key.pk}/revoke").status_code == 405
    assert page.post(f"/keys/{key.pk}/revoke").status_code == 302
    key.refresh_from_db()
    assert not key.is_active
    assert "revoked" in page.get("/keys").content.decode()


def test_name_of_a_key_is_escaped(page: Client, user: User) -> None:
    make_key(user=user, name='"><script>alert(1)</script>')
    assert "<script>alert" not in page.get("/keys").content.decode()


def test_language_is_switched_and_kept(page: Client) -> None:
    assert page.post("/i18n/setlang/", {"language": "ko", "next": "/keys"}).status_code == 302
    text = page.get("/keys").content.decode()
    assert '<html lang="ko">' in text
    assert "API 키" in text
