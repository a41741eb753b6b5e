"""docs/api-fields.md says what is done with every request field, and that is what is done: each of them is sent."""

import re
from typing import Any

import httpx
import msgspec
import pytest

from gpu_worker.protocol import Detokenize, Generate, Tokenize
from scripts.api_endpoints import Endpoint, list_endpoints
from scripts.api_fields import PAGE, make_page
from tests.api.conftest import Api
from tests.api.field_probes import CONVERSATION, MISSING, PREVIOUS, PROBES, Probe
from tests.api.pooling_fixtures import embedder, embedding_api, reranker, reranking_api
from tests.api.whisper_fixtures import audio_api, whisper_folder, whisper_worker
from tests.factories import make_model, make_replica
from tests.recordings import make_recording
from tests.scripted_fixtures import register_worker
from tests.scripted_worker import ScriptedWorker
from tests.worker_process import WorkerProcess

__all__ = [  # fixtures
    "audio_api",
    "embedder",
    "embedding_api",
    "reranker",
    "reranking_api",
    "whisper_folder",
    "whisper_worker",
]

ENDPOINTS = list_endpoints()
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "scripted", "seed": 1, "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": "scripted", "seed": 1, "prompt": "once"},
    "/v1/responses": {"model": "scripted", "seed": 1, "input": "hello"},
    "/v1/messages": {"model": "scripted", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]},
    "/v1/messages/count_tokens": {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/tokenize": {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/detokenize": {"model": "scripted", "tokens": [1, 2]},
    "/load_model": {"model": "scripted"},
}
RANKED: dict[str, dict[str, Any]] = {
    "/v1/rerank": {"model": "reranker", "query": "w1 w2", "documents": ["w3", "w1 w2", "w4 w5 w6"]},
    "/v1/score": {"model": "reranker", "text_1": "w1 w2", "text_2": ["w3", "w4 w5 w6"]},
}
# What differs from one answer to the next.
_PASSING = re.compile(
    r'"(?:chatcmpl|cmpl|resp|msg|rs|fc|call|tok|detok)[-_][0-9a-zA-Z_-]+"|"(?:created|created_at|completed_at)":[0-9.]+'
    r'|"seed":[0-9]{4,}'
)


def test_page_is_as_the_schemas_and_the_sdk_are() -> None:
    assert PAGE.read_text() == make_page(), "run python -m scripts.api_fields"


def test_a_field_that_nobody_has_decided_on_is_noticed() -> None:
    with pytest.raises(KeyError, match="brand_new"):
        Endpoint(frozenset({"brand_new"}), frozenset(), {}, {}).classify("brand_new")


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
        num_before = len(worker.received)
        response = chat_api.post(path, without_absent(BODIES[path] | fields))
        if fields.get("background"):
            worker.wait_for(lambda worker: len(worker.received) > num_before and not worker.num_running)
        asked = [it for it in worker.received[num_before:] if isinstance(it, Generate | Tokenize | Detokenize)]
        return response, b"".join(map(msgspec.json.encode, asked))

    def observe(fields: dict[str, Any]) -> str:
        response, asked = ask(fields)
        assert response.status_code == (404 if fields.get("model") == MISSING else 200), response.text
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
@pytest.mark.parametrize("path", RANKED)
def test_fields_of_rankings_do_what_the_table_says(reranking_api: Api, reranker: WorkerProcess, path: str) -> None:
    make_replica(make_model("other"), port=reranker.port, token=reranker.token)

    def ask(fields: dict[str, Any]) -> httpx.Response:
        return reranking_api.post(path, RANKED[path] | fields)

    def observe(fields: dict[str, Any]) -> str:
        response = ask(fields)
        assert response.status_code == 200, response.text
        return re.sub(r'"id":"[^"]*"|"created":[0-9]+', "", response.text)

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


def without_absent(body: dict[str, Any]) -> dict[str, Any]:
    """A probe's None beside it takes a field of the plain body away."""
    return {name: value for name, value in body.items() if value is not None}


def list_probes(path: str) -> list[tuple[str, Probe]]:
    return [(field, PROBES[path][field]) for field in sorted(ENDPOINTS[path].fields)]


def check(path: str, field: str, observe: Any, ask: Any, probe: Probe) -> None:
    """What is seen with the field is what its class promises, against what is seen without it."""
    with_field = probe.beside | {field: probe.value}
    match ENDPOINTS[path].classify(field):
        case "honoured":
            assert observe(with_field) != observe(probe.beside), f"'{field}' changes nothing at {path}"
        case "accepted":
            assert observe(with_field) == observe(probe.beside), f"'{field}' changes something at {path}"
        case _:
            check_refusal(ask(with_field), field)


def check_refusal(response: httpx.Response, field: str) -> None:
    """A 400 that names the field; Anthropic's errors do so in their message alone."""
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    if "param" in error:
        assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    else:
        assert error["message"].startswith(f"'{field}' is not supported here")
