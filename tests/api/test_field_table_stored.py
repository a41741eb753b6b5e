"""docs/api-fields.md on what is kept and listed: every field of it is sent, and does what the table says."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from scripts.api_endpoints import list_endpoints
from tests.api.batch_fixtures import BatchApi, batches, make_line, scripted
from tests.api.conftest import Api
from tests.api.field_probes import PROBES, Probe
from tests.api.stored_probes import LATEST, OTHER_FILE, QUERIES, STORED
from tests.scripted_worker import ScriptedWorker
from tests.stored_files import clear_storage

__all__ = ["batches", "scripted"]  # fixtures

ENDPOINTS = list_endpoints()
ITEMS = [{"role": "user", "content": text} for text in ("one", "two", "three")]
_PASSING = re.compile(r'"(?:id|first_id|last_id)": ?"[^"]*"|"created_at": ?[0-9]+')
Ask = Callable[[dict[str, Any]], httpx.Response]


def check(name: str, field: str, probe: Probe, ask: Ask) -> None:
    """With the field there is another answer than without it, or the very same: what its class promises."""
    before, after = ask(probe.beside), ask(probe.beside | {field: probe.value})
    assert before.status_code == 200, before.text
    seen = [_PASSING.sub("", answer.text) for answer in (before, after)]
    if ENDPOINTS[name].classify(field) == "accepted":
        assert seen[0] == seen[1], f"'{field}' changes something at {name}"
        return
    assert ENDPOINTS[name].classify(field) == "honoured"
    assert seen[0] != seen[1], f"'{field}' changes nothing at {name}"
    if after.status_code != 200:
        assert (after.status_code, after.json()["error"]["param"].partition(".")[0]) == (400, field)


def test_every_endpoint_and_field_has_a_probe() -> None:
    probes = PROBES | STORED | QUERIES
    missing = {name: sorted(ENDPOINTS[name].fields - probes[name].keys()) for name in ENDPOINTS}
    assert not any(missing.values()), missing


def test_files(api: Api) -> None:
    def ask(fields: dict[str, Any]) -> httpx.Response:
        data = {"purpose": fields.get("purpose", "batch")}
        if expiry := fields.get("expires_after"):
            data |= {f"expires_after[{name}]": str(value) for name, value in expiry.items()}
        with api.client() as client:
            return client.post("/v1/files", files={"file": ("a", fields.get("file", b"{}\n"))}, data=data)

    for field, probe in STORED["/v1/files"].items():
        check("/v1/files", field, probe, ask)
    clear_storage()


def test_batches(scripted: BatchApi) -> None:
    first, other = (scripted.upload([make_line(name)]) for name in "ab")

    def ask(fields: dict[str, Any]) -> httpx.Response:
        body = {"input_file_id": first, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return scripted.post("/v1/batches", body | fields)

    for field, probe in STORED["/v1/batches"].items():
        check("/v1/batches", field, Probe(other) if probe.value == OTHER_FILE else probe, ask)


def test_conversations(api: Api) -> None:
    def make(fields: dict[str, Any]) -> httpx.Response:
        return api.post("/v1/conversations", {"items": ITEMS} | fields)

    def make_and_list(fields: dict[str, Any]) -> httpx.Response:
        return get(api, f"/v1/conversations/{make(fields).json()['id']}/items")

    def change(fields: dict[str, Any]) -> httpx.Response:
        return api.post(f"/v1/conversations/{conversation_id}", {"metadata": {}} | fields)

    def add(fields: dict[str, Any]) -> httpx.Response:
        return api.post(f"/v1/conversations/{conversation_id}/items", {"items": ITEMS} | fields)

    conversation_id = api.post("/v1/conversations", {}).json()["id"]
    for name, field, ask in (
        ("/v1/conversations", "items", make_and_list),
        ("/v1/conversations", "metadata", make),
        ("/v1/conversations/{id}", "metadata", change),
        ("/v1/conversations/{id}/items", "items", add),
    ):
        check(name, field, STORED[name][field], ask)


@pytest.mark.parametrize("name", QUERIES)
def test_queries(scripted: BatchApi, worker: ScriptedWorker, name: str) -> None:
    path = make_objects(scripted, name)
    latest = read_latest(scripted, path) if "after" in QUERIES[name] else None

    def ask(query: dict[str, Any]) -> httpx.Response:
        if name.startswith("GET"):
            return get(scripted, path, **query)
        return scripted.post(path, {"items": ITEMS}, params=query)

    for field, probe in QUERIES[name].items():
        check(name, field, Probe(latest) if probe.value == LATEST else probe, ask)


def make_objects(api: BatchApi, name: str) -> str:
    """What the query lists or reads, several of them; where it is."""
    path = name.partition(" ")[2]
    if path == "/v1/files":
        for line in ("a", "another"):
            api.upload([make_line(line)])
    elif path == "/v1/batches":
        for line in "ab":
            api.wait_for(api.create([make_line(line)]), "completed")
    elif path.startswith("/v1/responses"):
        body = {"model": "scripted", "input": ITEMS, "background": True, "stream": True}
        created = re.search(r"resp_\w+", api.post("/v1/responses", body).text)
        assert created
        path = path.replace("{id}", created[0])
    else:
        conversation_id = api.post("/v1/conversations", {"items": ITEMS}).json()["id"]
        path = path.replace("{id}", conversation_id, 1)
        if path.endswith("{id}"):
            path = path.replace("{id}", read_latest(api, path.removesuffix("/{id}")))
    return path


def get(api: Api, path: str, **query: Any) -> httpx.Response:
    with api.client() as client:
        return client.get(path, params=query)


def read_latest(api: Api, path: str) -> str:
    return str(get(api, path).json()["data"][0]["id"])
