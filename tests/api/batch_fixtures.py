"""Batches behind the API: what a message to Celery would start is started in this process, by the same runner."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app

from apps.batches import line_runner, run
from apps.batches.runner import runner
from apps.registry.models import HostedModel
from tests.api.conftest import Api, wait_until
from tests.stored_files import clear_storage

CHAT = "/v1/chat/completions"


def make_line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    """One request; a chat unless told otherwise."""
    if url == CHAT:
        body = {"messages": [{"role": "user", "content": custom_id}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "scripted"} | body}


def encode_lines(lines: list[Any]) -> bytes:
    """A file of them."""
    return b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)


class BatchApi(Api):
    """The API with batches."""

    def upload(self, lines: list[Any], **fields: str) -> str:
        """The id of a new input."""
        with self.client() as client:
            files = {"file": ("input.jsonl", encode_lines(lines))}
            return client.post("/v1/files", files=files, data={"purpose": "batch"} | fields).json()["id"]

    def create(self, lines: list[Any], endpoint: str = CHAT, **fields: Any) -> dict[str, Any]:
        """A new batch of these lines."""
        body = {"input_file_id": self.upload(lines), "endpoint": endpoint, "completion_window": "24h"} | fields
        answer = self.post("/v1/batches", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As it stands."""
        with self.client() as client:
            return client.get(f"/v1/batches/{batch['id']}").json()

    def wait_for(self, batch: dict[str, Any], *statuses: str) -> dict[str, Any]:
        """As it stands once it has one of these."""
        return wait_until(lambda: now if (now := self.get(batch))["status"] in statuses else None)

    def cancel(self, batch: dict[str, Any], status: int = 200) -> dict[str, Any]:
        """Have it end."""
        answer = self.post(f"/v1/batches/{batch['id']}/cancel", {})
        assert answer.status_code == status, answer.text
        return answer.json()

    def read(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        """The lines of a file by their custom ids, each of which is there once."""
        if file_id is None:
            return {}
        with self.client() as client:
            lines = [json.loads(line) for line in client.get(f"/v1/files/{file_id}/content").text.splitlines()]
        by_id = {line["custom_id"]: line for line in lines}
        assert len(by_id) == len(lines)
        return by_id


@pytest.fixture
def batches(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchApi]:
    """The API, where a new batch is taken up at once, cancellations are seen soon and errors tried again soon."""
    monkeypatch.setattr(run, "BEAT_INTERVAL_S", 0.05)
    monkeypatch.setattr(line_runner, "RETRY_DELAYS_S", (0.01, 0.01))
    monkeypatch.setattr(current_app, "send_task", lambda name, **options: runner.start_due())
    yield BatchApi(api.url, api.secret)
    runner.stop()
    clear_storage()


@pytest.fixture
def scripted(scripted_model: HostedModel, batches: BatchApi) -> BatchApi:
    """With the model "scripted" behind it: the fixture `worker`."""
    return batches
