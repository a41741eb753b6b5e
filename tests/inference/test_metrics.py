"""GET /metrics: who may read it, and that an answer is counted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client
from prometheus_client import REGISTRY

from tests.factories import make_key, make_team, make_user
from tests.inference.conftest import MakeRequest, read, read_usage
from tests.scripted_worker import Answer, ScriptedWorker
from tests.web_process import ROOT

pytestmark = pytest.mark.django_db


def test_nobody_is_refused(client: Client) -> None:
    assert client.get("/metrics").status_code == 401


def test_member_is_refused(client: Client) -> None:
    response = client.get("/metrics", headers={"Authorization": f"Bearer {make_key().secret}"})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "permission_denied"


def test_administrators_key_reads(client: Client) -> None:
    team = make_team()
    admin = make_user(team=team, is_superuser=True, is_staff=True)
    secret = make_key(team=team, user=admin).secret
    response = client.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
    assert response.status_code == 200
    assert b"atrium_requests_in_flight" in response.content


def test_everybody_reads_where_metrics_are_public(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.conf.settings.METRICS_PUBLIC", True)
    assert client.get("/metrics", headers={"Authorization": "Bearer other"}).status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("scripted_model")
async def test_answer_is_counted_once(worker: ScriptedWorker, make_request: MakeRequest) -> None:
    names = {
        ("atrium_requests_total", (("endpoint", "test"), ("model", "scripted"), ("status", "ok"))): 1,
        ("atrium_tokens_total", (("kind", "completion"), ("model", "scripted"))): 3,
        ("atrium_tokens_total", (("kind", "prompt"), ("model", "scripted"))): 5,
        ("atrium_time_to_first_token_seconds_count", (("model", "scripted"),)): 1,
        ("atrium_requests_in_flight", ()): 0,
    }

    def sample() -> list[float]:
        return [REGISTRY.get_sample_value(name, dict(labels)) or 0 for name, labels in names]

    before = sample()
    worker.reply(Answer.of("a", "b", "c"))
    await read(make_request())
    await read_usage()
    assert [now - then for now, then in zip(sample(), before, strict=True)] == list(names.values())


@pytest.mark.slow
def test_processes_that_share_a_folder_are_added_up(tmp_path: Path) -> None:
    """prometheus_client reads its variable when it is first imported, so this takes processes of their own."""
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "project.settings",
    }
    count = "import django; django.setup(); from apps.inference.metrics import FAILOVERS; FAILOVERS.labels('m').inc()"
    show = (
        "import django; django.setup(); from django.conf import settings; settings.METRICS_PUBLIC = True\n"
        "settings.ALLOWED_HOSTS = ['*']; from django.test import Client\n"
        "print(Client().get('/metrics').content.decode())"
    )
    for code in (count, count, show):
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert 'atrium_failovers_total{model="m"} 2.0' in result.stdout
