"""One real server for all live tests of a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.installation import Installation, run_installation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts real servers: slow, and on one xdist worker so that they share one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group("live"))


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    # Some clients send no temperature: with a seed they hear the same in every run all the same.
    with run_installation(tmp_path_factory.mktemp("live"), "--default-seed", "0") as server:
        yield server


@pytest.fixture
def home(installation: Installation, tmp_path: Path) -> Iterator[Path]:
    """A folder for a client, whose last request is settled before the next test counts requests."""
    yield tmp_path
    installation.wait_until_settled()
