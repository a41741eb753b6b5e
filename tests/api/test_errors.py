"""Every kind of error over HTTP: its status, OpenAI's shape, the headers, and nothing of the inside."""

import http.client
import inspect
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from apps.core import errors
from apps.openai_api import views
from tests.api.conftest import Api
from tests.api.test_edge import CHAT, HELLO, ORIGIN, error_of

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.ServiceError) and kind.__module__ == errors.__name__
]
PATHS = {
    CHAT: "apps.openai_api.consumers.parse_chat",
    "/v1/completions": "apps.openai_api.consumers.parse_completion",
    "/v1/responses": "apps.openai_api.responses_consumer.parse_response",
    "/v1/embeddings": "apps.openai_api.pooling_consumers.parse_embedding",
    "/v1/rerank": "apps.openai_api.pooling_consumers.parse_rerank",
    "/v1/score": "apps.openai_api.pooling_consumers.parse_score",
}
STAINLESS = [
    "arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version", "poll-helper",
    "read-timeout", "retry-count", "runtime", "runtime-version", "timeout",
]  # fmt: skip
SDK_HEADERS = ["authorization", "content-type", "x-api-key", "dangerously-allow-browser", "openai-organization"]
SDK_HEADERS += [f"x-stainless-{name}" for name in STAINLESS]


PATH_LIKE_IDS = ["..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%2e%2e/x", "a%00b", "org/x:../../x.gguf", "x@../y"]
PATH_LIKE_MODELS = ["../../etc/passwd", "/etc/passwd", "org/../x", "C:\\x", "x" * 9999, "file:///etc"]
MINIMAL: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO["messages"]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/rerank": {"query": "x", "documents": ["x"]},
    "/v1/score": {"text_1": "x", "text_2": "x"},
}
NO_OBJECTS = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b'{"model": NaN}', b"{}{}", b'{"model": "\\ud800"}',
]  # fmt: skip


def break_all(monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None]) -> None:
    """Have every path end in this."""

    async def fail_later(*_: object) -> None:
        fail()

    for target in PATHS.values():
        monkeypatch.setattr(target, fail)
    monkeypatch.setattr(views, "list_models", fail_later)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_leaves_in_one_shape(
    api: Api, settings: Any, monkeypatch: pytest.MonkeyPatch, kind: type[errors.ServiceError]
) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example"]

    def fail(*_: object) -> None:
        raise kind("What is wrong.", param="field")

    break_all(monkeypatch, fail)
    with api.client() as client:
        client.headers.update(ORIGIN)
        responses = [client.post(path, json=HELLO) for path in PATHS]
        responses += [client.post(path, json=HELLO | {"stream": True}) for path in PATHS]
        responses.append(client.get("/v1/models"))
    for response in responses:
        error = error_of(response, kind.status)
        assert error == {"message": "What is wrong.", "type": kind.type, "param": "field", "code": kind.code}
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert ("retry-after" in response.headers) == (kind.status in (429, 503))


def test_a_fault_of_ours_says_nothing_on_any_path(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail of /srv/atrium/inside.py")

    break_all(monkeypatch, fail)
    with api.client() as client:
        responses = [client.post(path, json=HELLO) for path in PATHS] + [client.get("/v1/models")]
    for response in responses:
        assert error_of(response, 500)["code"] == "internal_error"
        assert "secret" not in response.text
        assert "Traceback" not in response.text
    assert caplog.text.count("RuntimeError: secret detail") == len(responses)


def test_errors_of_every_status_carry_cors_headers(api: Api, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example"]
    settings.MAX_BODY_BYTES = 2000
    with api.client() as client:
        client.headers.update(ORIGIN)
        responses = [
            client.post(CHAT, json=HELLO, headers={"authorization": "Bearer wrong-but-long-enough"}),
            client.get(CHAT),
            client.delete("/v1/models"),
            client.post(CHAT, json=HELLO | {"model": "nobody"}),
            client.post(CHAT, content=b"x" * 3000, headers={"content-type": "application/json"}),
            client.post(CHAT, data={"a": "b"}),
            client.get("/v1/responses/resp_none"),
        ]
    assert [response.status_code for response in responses] == [401, 405, 405, 404, 413, 415, 404]
    for response in responses:
        error_of(response, response.status_code)
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    ("allowed", "origin", "is_let_in"),
    [
        ("tauri://localhost", "tauri://localhost", True),
        ("app://obsidian.md", "app://obsidian.md", True),
        ("vscode-webview://*", "vscode-webview://1fb4d0a6-0c5e", True),
        ("null", "null", True),
        ("*", "null", True),
        ("vscode-webview://*", "https://vscode-webview", False),
        ("tauri://localhost", "null", False),
        ("null", "https://null", False),
        ("https://a.example", "https://a.example.evil.example", False),
    ],
)
def test_origins_of_apps_can_be_allowed(api: Api, settings: Any, allowed: str, origin: str, is_let_in: bool) -> None:
    settings.CORS_ALLOWED_ORIGINS = [allowed]
    asked = {"access-control-request-method": "POST", "access-control-request-headers": ", ".join(SDK_HEADERS)}
    with api.client() as client:
        del client.headers["authorization"]
        response = client.options(CHAT, headers={"origin": origin} | asked)
    assert response.headers.get("access-control-allow-origin") == (origin if is_let_in else None)
    assert "access-control-allow-credentials" not in response.headers
    if is_let_in:
        assert response.status_code == 204
        assert response.headers["access-control-allow-headers"].split(", ") == SDK_HEADERS


@pytest.mark.parametrize("path", ["/v1/models/", "/models/"])
def test_path_like_model_ids_are_not_found(api: Api, path: str) -> None:
    # Not httpx: it would resolve the dots itself.
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=20)
    for name in PATH_LIKE_IDS:
        connection.request("GET", path + name, headers=api.headers)
        response = connection.getresponse()
        assert response.status == 404, name
        assert set(json.loads(response.read())["error"]) == {"message", "type", "param", "code"}
    connection.close()


@pytest.mark.parametrize("path", MINIMAL)
def test_path_like_models_in_a_body_are_not_found(api: Api, path: str) -> None:
    with api.client() as client:
        for name in PATH_LIKE_MODELS:
            error = error_of(client.post(path, json=MINIMAL[path] | {"model": name}), 404)
            assert error["code"] == "model_not_found", name


@pytest.mark.parametrize("path", PATHS)
def test_bodies_that_are_no_objects_are_400(api: Api, path: str) -> None:
    with api.client() as client:
        for content in NO_OBJECTS:
            response = client.post(path, content=content, headers={"content-type": "application/json"})
            assert error_of(response, 400)["type"] == "invalid_request_error", content


def test_names_in_messages_are_no_more_than_what_was_sent(api: Api) -> None:
    name = quote("<script>alert(1)</script>")
    with api.client() as client:
        response = client.get(f"/v1/models/{name}")
    assert error_of(response, 404)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
