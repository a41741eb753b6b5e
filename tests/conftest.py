"""What every test may rely on: a test database in a file of its own, and no answer cached from another test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.test import override_settings
from django.utils import translation

from apps.accounts.caller_cache import caller_cache
from apps.core.db import close_db_connections
from apps.quotas.rules import rule_book
from tests.live.clients.table import write_clients
from tests.parity_table import write_parity


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables; here, where pytest finds it also when workers run the tests."""
    write_parity(terminalreporter)
    write_clients(terminalreporter)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SQLite in a file: the hot path has database threads of its own, which a database in memory would lock out."""
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "django.db.backends.sqlite3":
        folder: Path = tmp_path_factory.mktemp("database")
        database.setdefault("TEST", {})["NAME"] = str(folder / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """The database threads let go of the test database before it is removed."""
    yield
    close_db_connections()


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Hashing that is meant to be slow would be most of the time of a suite that makes hundreds of users."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture(autouse=True)
def forget_callers() -> Iterator[None]:
    """A key of one test is unknown to the next, and so are its limits."""
    yield
    caller_cache.clear()
    rule_book.invalidate()
    translation.deactivate()  # a page in Korean leaves its language to its thread
