"""Settings that are wrong together are found at start."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import run_checks

from project import checks

SQLITE = {"default": {"ENGINE": "django.db.backends.sqlite3"}}
POSTGRES = {"default": {"ENGINE": "django.db.backends.postgresql"}}
CHECKS = [
    checks.check_public_address,
    checks.check_cors,
    checks.check_first_credentials,
    checks.check_forced_model,
    checks.check_deployment_shape,
    checks.check_intervals,
]


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        ({}, []),
        ({"PUBLIC_BASE_URL": "https://atrium.example.com"}, []),
        ({"PUBLIC_BASE_URL": "atrium.example.com"}, ["E001"]),
        ({"PUBLIC_BASE_URL": "ftp://atrium.example.com"}, ["E001"]),
        ({"PUBLIC_BASE_URL": "https://example.com/atrium"}, ["E002"]),
        ({"PUBLIC_BASE_URL": "https://atrium.example.com", "DEBUG": True}, ["W001"]),
        ({"CORS_ALLOWED_ORIGINS": ["https://a.example", "http://localhost:3000"]}, []),
        ({"CORS_ALLOWED_ORIGINS": ["*"]}, []),
        ({"CORS_ALLOWED_ORIGINS": ["null", "tauri://localhost", "app://obsidian.md", "vscode-webview://*"]}, []),
        ({"CORS_ALLOWED_ORIGINS": ["https://*"]}, ["E003"]),
        ({"CORS_ALLOWED_ORIGINS": ["*", "https://a.example"]}, ["W002"]),
        ({"CORS_ALLOWED_ORIGINS": ["https://a.example/"]}, ["E003"]),
        ({"CORS_ALLOWED_ORIGINS": ["a.example"]}, ["E003"]),
        ({"BOOTSTRAP_API_KEY": "short"}, ["E004"]),
        ({"FORCE_MODEL": "org/name@main"}, []),
        ({"FORCE_MODEL": "../etc"}, ["E005"]),
        ({"DATABASES": SQLITE, "REDIS_URL": "redis://r"}, ["W003"]),
        ({"DATABASES": POSTGRES, "CELERY_BROKER_URL": "filesystem://"}, ["W004"]),
        ({"DATABASES": POSTGRES, "CELERY_BROKER_URL": "redis://r", "REDIS_URL": "redis://r"}, []),
        ({"SSE_KEEPALIVE_S": 60.0}, ["W005"]),
        ({"AUTH_CACHE_TTL_S": 301.0}, ["W006"]),
    ],
)
def test_wrong_combination_is_found(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], ids: list[str]) -> None:
    neutral = {"PUBLIC_BASE_URL": "", "DEBUG": False, "BOOTSTRAP_API_KEY": "", "FORCE_MODEL": "", "REDIS_URL": ""}
    plain = {
        "CELERY_BROKER_URL": "filesystem://",
        "CORS_ALLOWED_ORIGINS": [],
        "DATABASES": SQLITE,
        "SSE_KEEPALIVE_S": 10.0,
        "AUTH_CACHE_TTL_S": 10.0,
    }
    monkeypatch.setattr(checks, "settings", SimpleNamespace(**neutral | plain | values))
    found = [message.id for check in CHECKS for message in check(None)]
    assert found == [f"atrium.{id_}" for id_ in ids]


def test_checks_are_registered(settings: Any) -> None:
    settings.FORCE_MODEL = "../etc"
    assert "atrium.E005" in [message.id for message in run_checks()]
