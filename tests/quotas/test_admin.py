"""Limits and prices in the admin."""

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from apps.accounts.models import Team, User
from apps.quotas.counters import Counter
from apps.quotas.models import Price, Quota, QuotaCounter
from apps.quotas.rules import make_rule
from tests.factories import make_key, make_model, make_team, make_user

pytestmark = pytest.mark.django_db

NO_FORMS = {"TOTAL_FORMS": "0", "INITIAL_FORMS": "0"}
ONE_FORM = {"TOTAL_FORMS": "1", "INITIAL_FORMS": "0"}


@pytest.fixture
def page() -> Client:
    client = Client()
    client.force_login(make_user(is_staff=True, is_superuser=True))
    return client


def inline(prefix: str, forms: dict[str, str], **fields: str) -> dict[str, str]:
    return {f"{prefix}-{name}": value for name, value in forms.items()} | {
        f"{prefix}-0-{name}": value for name, value in fields.items()
    }


def test_list_shows_what_is_in_use(page: Client) -> None:
    quota = Quota.objects.create(team=make_team("Research"), requests_per_minute=50, max_concurrent=4)
    state = b'{"num_open": 3}'
    QuotaCounter.objects.create(name=make_rule(quota).counter, state=state.decode())
    assert Counter(num_open=3).count() == (0, 0)
    text = page.get(reverse("admin:quotas_quota_changelist")).content.decode()
    assert "Requests this minute: 0 / 50" in text
    assert "Requests at once: 3 / 4" in text
    assert "Requests at once: 3 / 4" in page.get(reverse("admin:quotas_quota_change", args=[quota.pk])).content.decode()


def test_limits_are_set_with_the_team(page: Client) -> None:
    team = make_team()
    form = {"name": team.name, "slug": team.slug} | inline("memberships", NO_FORMS)
    form |= inline("quotas", ONE_FORM, tokens_per_minute="1000", budget_period="day", each_user="on")
    assert page.post(reverse("admin:accounts_team_change", args=[team.pk]), form).status_code == 302
    quota = Quota.objects.get()
    assert (quota.team, quota.tokens_per_minute, quota.each_user) == (team, 1000, True)


def test_pages_of_keys_people_teams_and_models_have_limits(page: Client) -> None:
    key, model = make_key().key, make_model()
    Price.objects.create(model=model, prompt=1, completion=2)
    Quota.objects.create(model=model, max_concurrent=1)
    paths = {"accounts_apikey": key.pk, "accounts_user": key.user_id, "accounts_team": key.team_id}
    for name, pk in (paths | {"registry_hostedmodel": model.pk}).items():
        text = page.get(reverse(f"admin:{name}_change", args=[pk])).content.decode()
        assert "quotas-TOTAL_FORMS" in text, name
    assert "price-TOTAL_FORMS" in text
    assert page.get(reverse("admin:accounts_apikey_add")).status_code == 200


def test_quotas_that_make_no_sense_are_refused() -> None:
    team, user = make_team(), make_user()
    for quota in (Quota(team=team), Quota(team=team, user=user, max_concurrent=1)):
        with pytest.raises(ValidationError):
            quota.clean()
    with pytest.raises(ValidationError):
        Quota(user=user, each_user=True, max_concurrent=1).clean()
    Quota(team=team, each_user=True, max_concurrent=1).clean()
    Quota(max_concurrent=0).clean()


def test_who_may_not_see_quotas_sees_none(client: Client) -> None:
    team = make_team()
    staff = make_user(team=team, is_staff=True)
    client.force_login(staff)
    assert client.get(reverse("admin:quotas_quota_changelist")).status_code == 403
    assert User.objects.count() == 1
    assert Team.objects.count() == 1
