"""docker-compose.yml is valid, needs the secrets it should, and its services hang together."""

import re

import pytest

from tests.deploy.compose import ROOT, interpolate, parse, read_compose_text

SECRETS = {"POSTGRES_PASSWORD": "pg", "REDIS_PASSWORD": "rd", "ATRIUM_SECRET_KEY": "sk"}
OWN_SERVICES = ("bootstrap", "web", "celery", "beat")


@pytest.fixture(scope="module")
def services():
    return parse(interpolate(read_compose_text(), SECRETS))["services"]


def test_the_file_is_valid_and_whole(services):
    assert set(services) == {"postgres", "redis", *OWN_SERVICES}


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("condition: service_healthy", "condition: healthy"),
        ("interval: 5s", "interval: five"),
    ],
)
def test_the_validator_would_notice(right, wrong):
    with pytest.raises(ValueError, match=r".+"):
        parse(interpolate(read_compose_text().replace(right, wrong), SECRETS))


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_has_a_default(name):
    given = {other: value for other, value in SECRETS.items() if other != name}
    with pytest.raises(KeyError, match=name):
        interpolate(read_compose_text(), given)


def test_our_services_share_the_image_and_start_after_bootstrap(services):
    images = {services[name]["image"] for name in OWN_SERVICES}
    assert len(images) == 1
    for name in ("web", "celery", "beat"):
        assert services[name]["depends_on"]["bootstrap"]["condition"] == "service_completed_successfully"
    assert services["bootstrap"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_every_named_volume_is_declared():
    whole = parse(interpolate(read_compose_text(), SECRETS))
    mounts = [mount for service in whole["services"].values() for mount in service.get("volumes", [])]
    used = {mount["source"] if isinstance(mount, dict) else mount.partition(":")[0] for mount in mounts}
    assert used == set(whole["volumes"]) == {"postgres", "data", "cache", "files"}


def test_only_the_web_is_published(services):
    assert [name for name, service in services.items() if service.get("ports")] == ["web"]
    assert all(services[name].get("healthcheck") for name in ("postgres", "redis", "web"))


def test_only_bootstrap_is_told_the_first_credentials(services):
    told = [name for name, service in services.items() if "ATRIUM_API_KEY" in service.get("environment", {})]
    assert told == ["bootstrap"]


def test_the_image_is_not_run_by_root_and_pins_torch():
    text = (ROOT / "Dockerfile").read_text()
    last_stage = text[text.rindex("\nFROM ") :]
    assert "\nUSER atrium\n" in last_stage
    assert re.search(r"pip install .*grep '\^torch=='", text)
    torch_pins = re.findall(r"^torch==\S+$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert len(torch_pins) == 1


def test_every_requirement_is_pinned():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z]+\])?==\S+", line), line
