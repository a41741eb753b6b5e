"""What holds for every path: errors as OpenAI objects, request ids, CORS, body limits, methods."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import DatabaseError

from apps.openai_api import views
from tests.api.conftest import Api
from tests.factories import make_model, make_team
from tests.scripted_worker import ScriptedWorker

CHAT = "/v1/chat/completions"
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
ORIGIN = {"origin": "https://app.example"}
GENERATING = [CHAT, "/v1/completions", "/chat/completions", "/completions"]


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error object of a response that must be a well-formed failure."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("path", [*GENERATING, "/v1/models", "/v1/models/x"])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong-but-long-enough"}, {"x-api-key": "nonsense"}])
def test_no_key_and_a_wrong_key_are_401(api: Api, path: str, headers: dict[str, str]) -> None:
    with api.client() as client:
        del client.headers["authorization"]
        method = "GET" if "models" in path else "POST"
        response = client.request(method, path, headers=headers)
    error = error_of(response, 401)
    assert error["code"] == "invalid_api_key"
    assert "/keys" in error["message"]
    given = response.request.headers.keys() & {"authorization", "x-api-key"}
    assert error["message"].startswith("Incorrect API key provided" if given else "No API key was given")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/load_model"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405(api: Api, path: str, method: str) -> None:
    with api.client() as client:
        response = client.request(method, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nothing", "/v1/chat/completions/x", "/v1/../etc/passwd"])
def test_unknown_path_is_404_json(api: Api, path: str, method: str) -> None:
    # Not httpx: it would resolve the dots itself.
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=20)
    connection.request(method, path)
    response = connection.getresponse()
    assert response.status == 404
    assert json.loads(response.read())["error"]["code"] == "not_found"
    connection.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"model": "scripted", "messages": ', b"\xff"])
def test_malformed_body_is_400(api: Api, content: bytes) -> None:
    with api.client() as client:
        response = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert error_of(response, 400)["type"] == "invalid_request_error"


def test_wrong_type_names_the_path_of_the_field(api: Api) -> None:
    response = api.post(CHAT, {"model": "scripted", "messages": [{"role": 1, "content": "x"}]})
    assert error_of(response, 400)["param"] == "messages[0].role"


def test_form_is_415(api: Api) -> None:
    with api.client() as client:
        response = client.post(CHAT, data={"a": "b"})
    assert "application/json" in error_of(response, 415)["message"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json", ""])
def test_json_by_another_name_is_read(api: Api, kind: str) -> None:
    with api.client() as client:
        response = client.post(CHAT, content=b"{}", headers={"content-type": kind} if kind else {})
    assert error_of(response, 400)["param"] == "model"


@pytest.mark.parametrize("chunked", [False, True])
def test_body_beyond_the_limit_is_413_before_it_is_read(api: Api, settings: Any, chunked: bool) -> None:
    settings.MAX_BODY_BYTES = 2000
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=20)
    connection.putrequest("POST", CHAT)
    for name, value in (api.headers | {"content-type": "application/json"}).items():
        connection.putheader(name, value)
    connection.putheader(*(("transfer-encoding", "chunked") if chunked else ("content-length", str(10**9))))
    connection.endheaders()
    if chunked:  # never ended: the answer comes all the same
        connection.send(b"bb8\r\n" + b"x" * 3000 + b"\r\n")
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "payload_too_large"
    connection.close()


def test_body_at_the_limit_is_read(api: Api, settings: Any) -> None:
    settings.MAX_BODY_BYTES = 2000
    body = json.dumps({"model": "x" * 5000})[:1998] + '"}'
    assert len(body) == 2000
    with api.client() as client:
        response = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert error_of(response, 400)["param"] == "messages"


@pytest.mark.parametrize(
    "name", ["nobody-knows", "../../etc/passwd", "/etc/passwd", "a b", "scripted@", "%00", "x" * 999]
)
def test_unknown_model_is_404_whatever_it_looks_like(api: Api, name: str) -> None:
    error = error_of(api.post(CHAT, HELLO | {"model": name}), 404)
    assert error["code"] == "model_not_found"
    assert "passwd" not in error["message"] or name in error["message"]


def test_model_of_another_team_is_404_as_if_it_did_not_exist(api: Api) -> None:
    make_model("theirs", teams=(make_team(),))
    theirs = error_of(api.post(CHAT, HELLO | {"model": "theirs"}), 404)
    nobodys = error_of(api.post(CHAT, HELLO | {"model": "nobodys"}), 404)
    assert theirs["message"].replace("theirs", "nobodys") == nobodys["message"]


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/health", "/v1/nothing", "/"])
def test_request_id_comes_back_on_every_path(api: Api, path: str) -> None:
    with api.client() as client:
        assert client.get(path, headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
        assert client.get(path).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("given", ["a b", "x" * 129, "<script>", ""])
def test_request_id_that_is_not_sane_is_replaced(api: Api, given: str) -> None:
    with api.client() as client:
        assert client.get("/health", headers={"x-request-id": given}).headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/health", "/v1/nothing", "/load_model"])
def test_cors_is_off_by_default(api: Api, path: str) -> None:
    with api.client() as client:
        for method in ("GET", "OPTIONS"):
            response = client.request(method, path, headers=ORIGIN | {"access-control-request-method": "POST"})
            assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/models", "/health", "/v1/nothing", "/load_model"])
@pytest.mark.parametrize("allowed", ["https://app.example", "*"])
def test_cors_answers_the_preflight_of_every_path(api: Api, settings: Any, path: str, allowed: str) -> None:
    settings.CORS_ALLOWED_ORIGINS = [allowed]
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-stainless-os"}
    with api.client() as client:
        del client.headers["authorization"]
        response = client.options(path, headers=ORIGIN | asked)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert response.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers


def test_cors_headers_are_on_errors_and_answers(chat_api: Api, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example"]
    with chat_api.client() as client:
        client.headers.update(ORIGIN)
        responses = [
            client.post(CHAT, json=HELLO),
            client.post(CHAT, json=HELLO | {"stream": True}),
            client.post(CHAT, json={}),
            client.get("/v1/nothing"),
            client.get("/v1/models"),
        ]
    assert [response.status_code for response in responses] == [200, 200, 400, 404, 200]
    for response in responses:
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-request-id" in response.headers["access-control-expose-headers"]


def test_cors_is_refused_to_other_origins(api: Api, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://app.example"]
    with api.client() as client:
        response = client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["vary"].startswith("Origin") or "Origin" in response.headers.get_list("vary")


def test_host_that_is_not_ours_is_a_json_400_on_the_api(api: Api) -> None:
    with api.client() as client:
        assert error_of(client.get("/v1/models", headers={"host": "evil.example"}), 400)["type"]


def test_health_needs_no_key(api: Api) -> None:
    with api.client() as client:
        del client.headers["authorization"]
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").json() == {"status": "ok"}


def test_not_ready_without_the_database(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def cursor(self) -> None:
            raise DatabaseError("password of the database is hunter2")

    monkeypatch.setattr(views, "connection", Gone())
    with api.client() as client:
        response = client.get("/ready")
    assert "hunter2" not in response.text
    assert error_of(response, 503)["code"] == "service_unavailable"


def test_a_fault_of_ours_says_nothing_of_the_inside(
    chat_api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("apps.openai_api.consumers.parse_chat", fail)
    error = error_of(chat_api.post(CHAT, HELLO), 500)
    assert error["code"] == "internal_error"
    assert "secret detail" not in error["message"]
    assert "secret detail" in caplog.text


def test_authorization_is_never_logged(chat_api: Api, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        chat_api.post(CHAT, HELLO)
        chat_api.post(CHAT, {})
    assert chat_api.secret not in caplog.text
