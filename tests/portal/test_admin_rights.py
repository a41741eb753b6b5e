"""Staff who are no superusers do what they were given, and cannot make themselves more than that."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.urls import reverse

from apps.accounts.models import APIKey, Membership, Team, User
from apps.registry.models import ModelCode
from tests.factories import make_key, make_model, make_team, make_user


@pytest.fixture
def team(db: None) -> Team:
    return make_team("Research")


@pytest.fixture
def boss(team: Team) -> User:
    return make_user("boss", team=team, is_superuser=True, is_staff=True)


@pytest.fixture
def clerk(team: Team) -> User:
    """Staff with every permission that Django can give, one by one."""
    clerk = make_user("clerk", team=team, is_staff=True)
    clerk.user_permissions.set(Permission.objects.all())
    return clerk


@pytest.fixture
def page(clerk: User) -> Client:
    client = Client()
    client.force_login(clerk)
    return client


def post_user(page: Client, user: User, **fields: object) -> int:
    names = ("TOTAL_FORMS", "INITIAL_FORMS", "MIN_NUM_FORMS", "MAX_NUM_FORMS")
    inline = {f"{prefix}-{name}": "0" for name in names for prefix in ("memberships", "quotas")}
    given = {"username": user.username, "is_active": "on", "date_joined_0": "2026-01-01", "date_joined_1": "00:00"}
    path = reverse("admin:accounts_user_change", args=[user.pk])
    return page.post(path, {**inline, **given, **fields}).status_code


def test_nobody_promotes_themselves(page: Client, clerk: User) -> None:
    assert post_user(page, clerk, first_name="Kim", is_superuser="on", is_staff="on") == 302
    clerk.refresh_from_db()
    assert clerk.first_name == "Kim"
    assert not clerk.is_superuser
    assert clerk.user_permissions.count() == Permission.objects.count()


def test_nobody_widens_their_group(page: Client, clerk: User) -> None:
    group = Group.objects.create(name="clerks")
    clerk.groups.add(group)
    every = [str(permission.pk) for permission in Permission.objects.all()]
    path = reverse("admin:auth_group_change", args=[group.pk])
    assert page.post(path, {"name": "clerks", "permissions": every}).status_code == 403
    assert page.post(reverse("admin:auth_group_add"), {"name": "kings", "permissions": every}).status_code == 403


def test_superusers_are_out_of_reach(page: Client, boss: User) -> None:
    assert post_user(page, boss, username="nobody") == 403
    password = reverse("admin:auth_user_password_change", args=[boss.pk])
    assert page.post(password, {"password1": "a-new-one-1", "password2": "a-new-one-1"}).status_code == 403
    assert page.post(reverse("admin:accounts_user_delete", args=[boss.pk]), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [str(boss.pk)], "post": "yes"}
    page.post(reverse("admin:accounts_user_changelist"), chosen)
    boss.refresh_from_db()
    assert boss.username == "boss"
    assert boss.check_password("password")


def test_superusers_keys_are_made_by_superusers(page: Client, boss: User, clerk: User, team: Team) -> None:
    path = reverse("admin:accounts_apikey_add")
    response = page.post(path, {"name": "k", "user": boss.pk, "team": team.pk})
    assert "Only a superuser" in response.content.decode()
    assert page.post(path, {"name": "k", "user": clerk.pk, "team": team.pk}).status_code == 200
    assert [key.user for key in APIKey.objects.all()] == [clerk]


def test_superuser_may_do_all_that(client: Client, boss: User, clerk: User, team: Team) -> None:
    client.force_login(boss)
    assert post_user(client, clerk, is_staff="on", is_superuser="on") == 302
    clerk.refresh_from_db()
    assert clerk.is_superuser


def test_code_of_a_repository_is_approved_by_superusers_alone(page: Client, boss: User) -> None:
    model = make_model("demo", source="org/demo")
    row = ModelCode.objects.create(model=model, source="org/demo", sha256="0" * 64)
    path = reverse("admin:registry_modelcode_changelist")
    chosen = {"action": "approve", "_selected_action": [str(row.pk)]}
    page.post(path, chosen)
    page.post(reverse("admin:registry_modelcode_change", args=[row.pk]), {"approved_at_0": "2026-01-01"})
    row.refresh_from_db()
    assert row.approved_at is None
    page.force_login(boss)
    page.post(path, chosen)
    row.refresh_from_db()
    assert (row.approved_by, row.approved_through) == (boss, "admin")
    page.post(path, {**chosen, "action": "withdraw"})
    row.refresh_from_db()
    assert (row.approved_at, row.approved_by) == (None, None)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["inactive", "no member"])
def test_keys_of_people_who_leave_stop_at_once(client: Client, boss: User, clerk: User, team: Team, how: str) -> None:
    bearer = {"authorization": f"Bearer {make_key(team=team, user=clerk).secret}"}
    assert Client().get("/v1/models", headers=bearer).status_code == 200
    client.force_login(boss)
    match how:
        case "inactive":
            assert post_user(client, clerk, is_active="") == 302
        case "no member":
            names = {"TOTAL_FORMS": "1", "INITIAL_FORMS": "1", "MIN_NUM_FORMS": "0", "MAX_NUM_FORMS": "9"}
            inline = {f"memberships-{name}": value for name, value in names.items()}
            membership = Membership.objects.get(user=clerk)
            chosen = {"memberships-0-id": membership.pk, "memberships-0-user": clerk.pk, "memberships-0-team": team.pk}
            chosen |= {"memberships-0-role": membership.role, "memberships-0-DELETE": "on"}
            assert post_user(client, clerk, **inline, **chosen) == 302
    assert Client().get("/v1/models", headers=bearer).status_code == 401
