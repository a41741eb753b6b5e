"""A model with code of its own behind the whole application: refused, approved, refused again once it has changed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import current_app
from django.test import Client
from django.urls import reverse

from apps.registry import launcher, reconcile, services
from apps.registry.models import HostedModel, ModelCode
from tests.api.conftest import Api, wait_for_settled_rows
from tests.custom_code import ARCHITECTURE, MODELING, make_repository
from tests.factories import make_model as make_hosted_model
from tests.factories import make_user
from tests.tiny_models import make_model
from tests.worker.engine.driving import generate, make_request

ASK = {"model": "homemade", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0, "ignore_eos": True}

pytestmark = pytest.mark.slow


@pytest.fixture
def machine(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> Iterator[str]:
    """This machine, as `serve` would use it, with nobody to reconcile it but the test."""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    monkeypatch.setattr(current_app, "send_task", lambda *args, **options: None)
    monkeypatch.setattr(reconcile, "DRAIN_SETTLE_S", 0.0)
    services.register_node(name=settings.NODE_NAME, address=settings.NODE_ADDRESS, info={})
    yield settings.NODE_NAME
    reconcile.stop_node(settings.NODE_NAME, timeout_s=20)
    for replica_id in launcher.list_folders():
        if (process := launcher.read_process(replica_id)) is not None:
            launcher.kill(process)


def ask(api: Api, machine: str) -> httpx.Response:
    """One request, while the machine is looked after."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.post, "/v1/completions", ASK, timeout=100)
        while not answer.done():
            reconcile.reconcile_node(machine)
            time.sleep(0.1)
        return answer.result()


def unload(model: HostedModel, machine: str) -> None:
    services.drain_model(model=model)
    deadline_s = time.monotonic() + 60
    while model.replicas.exclude(state__in=["stopped", "failed"]).exists():
        assert time.monotonic() < deadline_s
        reconcile.reconcile_node(machine)
        time.sleep(0.1)


def test_code_runs_when_and_as_it_was_approved(api: Api, machine: str, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    folder = make_repository(tmp_path / "homemade", marker)
    model = make_hosted_model("homemade", source=str(folder))
    refused = ask(api, machine)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_load_failed")
    assert "brings its own code" in refused.json()["error"]["message"]
    assert MODELING in refused.json()["error"]["message"]
    assert not marker.exists()

    code = ModelCode.objects.get()
    admin = Client()
    admin.force_login(make_user("boss", is_staff=True, is_superuser=True))
    chosen = {"action": "approve", "_selected_action": [str(code.pk)]}
    assert admin.post(reverse("admin:registry_modelcode_changelist"), chosen).status_code == 302
    answer = ask(api, machine)
    assert answer.status_code == 200, answer.text
    assert marker.exists()
    expected = generate(make_model(ARCHITECTURE), make_request("a", [5, 6, 7], max_tokens=6, eos_token_ids=frozenset()))
    assert answer.json()["choices"][0]["text"].split() == [f"w{token_id}" for token_id in expected]

    unload(model, machine)
    with (folder / MODELING).open("a") as file:
        file.write("# one more line\n")
    refused = ask(api, machine)
    assert refused.status_code == 503
    assert "not the code that was approved" in refused.json()["error"]["message"]
    assert ModelCode.objects.filter(approved_at=None).exclude(sha256=code.sha256).count() == 1
    assert len(wait_for_settled_rows(3)) == 3
