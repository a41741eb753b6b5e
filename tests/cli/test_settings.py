"""Environment variables: read by type, refused by name."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.env import env_bool, env_choice, env_float, env_int, env_list, env_path
from project.secret import read_or_create_secret

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def env(monkeypatch):
    return lambda value: monkeypatch.setenv("X", value)


@pytest.mark.parametrize(("raw", "value"), [("1", True), ("TRUE", True), (" on ", True), ("0", False), ("", False)])
def test_bool(env, raw, value):
    env(raw)
    assert env_bool("X", not value) is value


def test_numbers_lists_and_paths(env, tmp_path):
    env(" 7 ")
    assert env_int("X", 1) == 7
    env("0.5")
    assert env_float("X", 1) == 0.5
    env("")
    assert env_int("X", 3) == 3
    env("a, ,b")
    assert env_list("X") == ["a", "b"]
    env("~/x")
    assert env_path("X", tmp_path) == Path.home() / "x"
    env("Passive")
    assert env_choice("X", "active", ("passive", "active")) == "passive"


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (lambda: env_bool("X", True), "maybe"),
        (lambda: env_int("X", 1), "1.5"),
        (lambda: env_int("X", 1, minimum=1), "0"),
        (lambda: env_float("X", 1), "fast"),
        (lambda: env_choice("X", "a", ("a", "b")), "c"),
    ],
)
def test_what_cannot_be_read_raises_and_names_the_variable(env, read, raw):
    env(raw)
    with pytest.raises(ImproperlyConfigured, match="X must be"):
        read()


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "secret"
    secret = read_or_create_secret(path)
    assert len(secret) > 50
    assert read_or_create_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def run_manage(data_dir: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {"PATH": "/usr/bin:/bin", "ATRIUM_DATA_DIR": str(data_dir)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_deploy_finds_nothing_behind_https(tmp_path):
    result = run_manage(
        tmp_path, "manage.py", "check", "--deploy", "--tag", "security", "--fail-level", "WARNING",
        PUBLIC_BASE_URL="https://atrium.example.com",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_web_processes_never_import_torch(tmp_path):
    code = "import sys, project.asgi; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = run_manage(tmp_path, "-c", code)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_bad_variable_stops_the_start_with_its_name(tmp_path):
    result = run_manage(tmp_path, "manage.py", "check", ATRIUM_RECONCILE_INTERVAL_S="often")
    assert result.returncode != 0
    assert "ATRIUM_RECONCILE_INTERVAL_S must be a number" in result.stderr
