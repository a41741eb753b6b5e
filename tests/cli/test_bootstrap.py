"""The first start of an installation, and every later one."""

import threading

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from apps.accounts.keys import hash_key
from apps.accounts.models import APIKey, Membership, Role, Team, User
from apps.registry.bootstrap import DEMO_MODEL_NAME, bootstrap
from apps.registry.models import HostedModel


def test_the_first_call_makes_everything_and_knows_the_secrets(db):
    made = bootstrap(username="root")
    user = User.objects.get()
    assert user.check_password(made.password)
    assert user.is_superuser
    assert APIKey.objects.get().key_hash == hash_key(made.api_key)
    assert Membership.objects.get().role == Role.OWNER
    assert HostedModel.objects.get().name == DEMO_MODEL_NAME


def test_the_second_call_makes_nothing_and_tells_no_secret(db):
    bootstrap(username="root")
    password = User.objects.get().password
    again = bootstrap(username="root", password="another-password")
    assert (again.password, again.api_key) == (None, None)
    assert User.objects.get().password == password
    assert (Team.objects.count(), APIKey.objects.count(), HostedModel.objects.count()) == (1, 1, 1)


def test_given_credentials_are_used(db):
    made = bootstrap(username="boss", password="correct horse", api_key="sk-any-form-of-key")
    assert User.objects.get(username="boss").check_password("correct horse")
    assert made.api_key == "sk-any-form-of-key"
    assert APIKey.objects.get().key_hash == hash_key("sk-any-form-of-key")


def test_a_given_key_comes_to_exist_beside_others(db):
    bootstrap(username="root")
    bootstrap(username="root", api_key="a-key-for-automation")
    bootstrap(username="root", api_key="a-key-for-automation")
    assert APIKey.objects.count() == 2


def test_a_revoked_first_key_is_not_made_again(db):
    bootstrap(username="root")
    APIKey.objects.update(revoked_at="2026-01-01T00:00:00Z")
    assert bootstrap(username="root").api_key is None


@pytest.mark.django_db(transaction=True)
def test_several_at_once_make_one_of_each():
    barrier = threading.Barrier(4)
    made = []

    def run():
        barrier.wait()
        try:
            made.append(bootstrap(username="root"))
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len([one for one in made if one.password]) == 1
    assert len([one for one in made if one.api_key]) == 1
    assert (User.objects.count(), Team.objects.count(), APIKey.objects.count()) == (1, 1, 1)


def test_the_command_prints_generated_secrets_once(db, capsys):
    call_command("bootstrap")
    first = capsys.readouterr().out
    secret = first.split("API key")[1].split()[0]
    assert APIKey.objects.get().key_hash == hash_key(secret)
    call_command("bootstrap")
    assert secret not in capsys.readouterr().out


def test_the_command_does_not_repeat_secrets_of_the_environment(db, settings, capsys):
    settings.BOOTSTRAP_API_KEY = "a-key-from-the-environment"
    settings.BOOTSTRAP_ADMIN_PASSWORD = "a-password-from-it"
    call_command("bootstrap")
    printed = capsys.readouterr().out
    assert "a-key-from" not in printed
    assert "a-password-from" not in printed
    assert User.objects.get().check_password("a-password-from-it")


def test_a_key_that_cannot_be_one_is_refused_by_name(db, settings):
    settings.BOOTSTRAP_API_KEY = "short"
    with pytest.raises(CommandError, match="ATRIUM_API_KEY"):
        call_command("bootstrap")
    assert not User.objects.exists(), "all or nothing"
