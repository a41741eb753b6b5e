"""docs/api-fields.md says what is done with every request field of OpenAI's, and that is what is done."""

import re
from typing import Any

import httpx
import msgspec
import pytest

from scripts.api_fields import PAGE, Endpoint, list_endpoints, make_page
from tests.api.conftest import Api
from tests.api.field_probes import CONVERSATION, PREVIOUS, PROBES, Probe
from tests.api.pooling_fixtures import embedder, embedding_api
from tests.api.whisper_fixtures import audio_api, whisper_folder, whisper_worker
from tests.factories import make_model, make_replica
from tests.recordings import make_recording
from tests.scripted_fixtures import register_worker
from tests.scripted_worker import ScriptedWorker
from tests.worker_process import WorkerProcess

__all__ = ["audio_api", "embedder", "embedding_api", "whisper_folder", "whisper_worker"]  # fixtures

ENDPOINTS = list_endpoints()
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "scripted", "seed": 1, "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": "scripted", "seed": 1, "prompt": "once"},
    "/v1/responses": {"model": "scripted", "seed": 1, "input": "hello"},
}
# What differs from one answer to the next.
_PASSING = re.compile(
    r'"(?:chatcmpl|cmpl|resp|msg|rs|fc|call)[-_][0-9a-zA-Z_-]+"|"(?:created|created_at|completed_at)":[0-9.]+'
)


def test_page_is_as_the_schemas_and_the_sdk_are() -> None:
    assert PAGE.read_text() == make_page(), "run python -m scripts.api_fields"


def test_a_field_that_nobody_has_decided_on_is_noticed() -> None:
    with pytest.raises(KeyError, match="brand_new"):
        Endpoint(frozenset({"brand_new"}), frozenset(), {}).classify("brand_new")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_field_has_a_probe(path: str) -> None:
    assert ENDPOINTS[path].openai_fields <= PROBES[path].keys()


@pytest.mark.parametrize("path", BODIES)
def test_fields_of_generating_endpoints_do_what_the_table_says(
    chat_api: Api, worker: ScriptedWorker, path: str
) -> None:
    register_worker(worker, model="other")
    previous = chat_api.post("/v1/responses", BODIES["/v1/responses"]).json()["id"]
    items = [{"role": "user", "content": "before"}]
    conversation = chat_api.post("/v1/conversations", {"items": items}).json()["id"]
    made = {PREVIOUS: Probe(previous), CONVERSATION: Probe(conversation)}

    def ask(fields: dict[str, Any]) -> tuple[httpx.Response, bytes]:
        """The answer, and what the worker was asked."""
        num_before = len(worker.generates)
        response = chat_api.post(path, BODIES[path] | fields)
        if fields.get("background"):
            worker.wait_for(lambda worker: len(worker.generates) > num_before and not worker.num_running)
        return response, b"".join(map(msgspec.json.encode, worker.generates[num_before:]))

    def observe(fields: dict[str, Any]) -> str:
        response, asked = ask(fields)
        assert response.status_code == 200, response.text
        return _PASSING.sub("", response.text + asked.decode())

    for field, probe in list_probes(path):
        made_probe = made.get(probe.value, probe) if isinstance(probe.value, str) else probe
        check(path, field, observe, lambda fields: ask(fields)[0], made_probe)


@pytest.mark.slow
def test_fields_of_embeddings_do_what_the_table_says(embedding_api: Api, embedder: WorkerProcess) -> None:
    make_replica(make_model("other"), port=embedder.port, token=embedder.token)
    path = "/v1/embeddings"

    def ask(fields: dict[str, Any]) -> httpx.Response:
        return embedding_api.post(path, {"model": "embedder", "input": "w1"} | fields)

    def observe(fields: dict[str, Any]) -> str:
        response = ask(fields)
        assert response.status_code == 200, response.text
        return response.text

    for field, probe in list_probes(path):
        check(path, field, observe, ask, probe)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_fields_of_recordings_do_what_the_table_says(audio_api: Api, path: str) -> None:
    def ask(fields: dict[str, Any]) -> httpx.Response:
        files = {"file": ("a.wav", fields.get("file", make_recording(3.0)))}
        data = {"model": "whisper", "seed": "1"} | {name: fields[name] for name in fields if name != "file"}
        with audio_api.client() as client:
            return client.post(path, data=data, files=files)

    def observe(fields: dict[str, Any]) -> str:
        response = ask(fields)
        if response.status_code == 404 and fields.get("model") == "other":
            return "another model"
        assert response.status_code == 200, response.text
        return response.text

    for field, probe in list_probes(path):
        check(path, field, observe, ask, Probe(make_recording(2.0, seed=3)) if field == "file" else probe)


def list_probes(path: str) -> list[tuple[str, Probe]]:
    return [(field, PROBES[path][field]) for field in sorted(ENDPOINTS[path].openai_fields)]


def check(path: str, field: str, observe: Any, ask: Any, probe: Probe) -> None:
    """What is seen with the field is what its class promises, against what is seen without it."""
    with_field = probe.beside | {field: probe.value}
    match ENDPOINTS[path].classify(field):
        case "honoured":
            assert observe(with_field) != observe(probe.beside), f"'{field}' changes nothing at {path}"
        case "accepted":
            assert observe(with_field) == observe(probe.beside), f"'{field}' changes something at {path}"
        case _:
            response = ask(with_field)
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["code"]) == (400, field, "unsupported_parameter")
