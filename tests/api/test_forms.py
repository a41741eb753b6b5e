"""Bodies of multipart/form-data, good and bad. No model is needed: they are refused before one is asked."""

import json

import httpx
import pytest

from tests.api.conftest import Api

PATH = "/v1/audio/transcriptions"
BOUNDARY = "b0und4ry"
KIND = f"multipart/form-data; boundary={BOUNDARY}"


def make_part(name: str, content: str | bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    data = content.encode() if isinstance(content, str) else content
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
MODEL = make_part("model", "nobodys")
FILE = make_part("file", b"RIFF", "a.wav")


def post(api: Api, body: bytes, content_type: str = KIND) -> httpx.Response:
    with api.client() as client:
        return client.post(PATH, content=body, headers={"content-type": content_type})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"no form", None),
        (MODEL + FILE, None),
        (FILE[:40], None),
        (f"--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nx\r\n".encode() + END, None),
        (MODEL * 65 + END, None),
        (MODEL + END, "file"),
        (FILE + END, "model"),
        (MODEL + make_part("file", "as text") + END, "file"),
        (MODEL + FILE + FILE + END, "file"),
        (MODEL + FILE + make_part("image", b"x", "b.png") + END, "image"),
        (MODEL + FILE + make_part("prompt", b"\xff\xfe") + END, "prompt"),
        (MODEL + FILE + make_part("prompt", "x" * 70_000) + END, "prompt"),
        (MODEL + FILE + make_part("speed", "2") + END, "speed"),
    ],
    ids=[
        "empty", "text", "no-end", "cut", "nameless", "many", "no-file", "no-model", "file-as-text", "two-files",
        "other-file", "not-utf8", "long", "unknown",
    ],
)  # fmt: skip
def test_bad_form_is_a_400(api: Api, body: bytes, param: str | None) -> None:
    response = post(api, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_good_form_gets_as_far_as_its_model(api: Api) -> None:
    response = post(api, FILE + MODEL + END)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/mixed; boundary=x"])
def test_other_content_types_are_a_415(api: Api, content_type: str) -> None:
    assert post(api, b"{}", content_type).status_code == 415


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 71}"], ids=["none", "empty", "long"])
def test_missing_boundary_is_a_400(api: Api, boundary: str) -> None:
    assert post(api, MODEL + END, f"multipart/form-data{boundary}").status_code == 400


def test_file_that_is_too_large_is_a_413(api: Api, settings: object) -> None:
    settings.MAX_AUDIO_BYTES = 2000
    file = make_part("file", bytes(2001), "a.wav")
    response = post(api, MODEL + file + END)
    assert (response.status_code, response.json()["error"]["param"]) == (413, "file")
    huge = post(api, MODEL + make_part("file", bytes(400_000), "a.wav") + END)
    assert huge.status_code == 413
    with api.client() as client:  # of unknown length
        parts = iter([MODEL, make_part("file", bytes(400_000), "a.wav"), END])
        assert client.post(PATH, content=parts, headers={"content-type": KIND}).status_code == 413


def test_without_a_key_the_form_is_not_read(api: Api) -> None:
    response = httpx.post(api.url + PATH, content=MODEL + END, headers={"content-type": KIND})
    assert response.status_code == 401
    assert json.loads(response.text)["error"]["code"] == "invalid_api_key"
