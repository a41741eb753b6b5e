"""Images in messages, over HTTP: what reaches the worker, and what is refused by name."""

import base64
import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from gpu_worker.protocol import Generate
from tests.api.conftest import Api, wait_for_settled_rows
from tests.factories import make_model, make_replica
from tests.file_server import FileServer, Reply, run_file_server
from tests.scripted_worker import ScriptedWorker
from tests.tiny_vision import make_folder, make_picture
from tests.worker_process import run_worker

PNG = b"\x89PNG\r\n\x1a\n" + b"one"
JPEG = b"\xff\xd8\xff" + b"two"
FIRST = "messages[0].content[1].image_url"


def to_data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def show(*urls: str, **fields: Any) -> dict[str, Any]:
    """A chat whose one message says something and shows these images."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": "What is it?"}, *images]
    return {"model": "scripted", "messages": [{"role": "user", "content": content}], **fields}


def find_generate(worker: ScriptedWorker) -> Generate:
    (message,) = [message for message in worker.received if isinstance(message, Generate)]
    return message


@pytest.fixture
def files(settings: Any) -> Iterator[FileServer]:
    """A server whose address is allowed although it is private."""
    settings.FETCH_PRIVATE_HOSTS, settings.FETCH_TIMEOUT_S = ["127.0.0.1"], 60
    with run_file_server() as server:
        yield server


def test_images_travel_once_each_beside_the_messages(chat_api: Api, worker: ScriptedWorker, files: FileServer) -> None:
    files.replies["/b.jpg"] = Reply(JPEG)
    answer = chat_api.post("/v1/chat/completions", show(to_data_url(PNG), files.url("/b.jpg"), to_data_url(PNG)))
    assert answer.status_code == 200, answer.text
    message = find_generate(worker)
    keys = [hashlib.sha256(data).hexdigest() for data in (PNG, JPEG)]
    assert message.media == dict(zip(keys, (PNG, JPEG), strict=True))
    assert message.messages is not None
    assert message.messages[0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image", "media": keys[0]},
        {"type": "image", "media": keys[1]},
        {"type": "image", "media": keys[0]},
    ]
    assert len(files.asked) == 1
    (row,) = wait_for_settled_rows(1)
    assert row.status == "ok"


def test_the_shape_of_the_responses_api_is_understood(chat_api: Api, worker: ScriptedWorker) -> None:
    content = [
        {"type": "input_image", "image_url": to_data_url(PNG), "detail": "auto"},
        {"type": "input_text", "text": "?"},
    ]
    body = {"model": "scripted", "input": [{"role": "user", "content": content}]}
    assert chat_api.post("/v1/chat/completions", body).status_code == 200
    assert list((find_generate(worker).media or {}).values()) == [PNG]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,@@@@",
        "data:image/png,plain",
        "data:text/plain;base64,aGk=",
        "data:image/png;base64",
        to_data_url(b"<svg/>", "image/svg+xml"),
        to_data_url(b"no picture"),
        to_data_url(b""),
        "data:,",
        "ftp://example.com/a.png",
        "http://127.0.0.1/a.png",
        "http://[::ffff:10.0.0.1]/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://no-such-host.invalid/a.png",
        "picture.png",
    ],
)
def test_images_that_cannot_be_had_are_refused_by_name(chat_api: Api, worker: ScriptedWorker, url: str) -> None:
    answer = chat_api.post("/v1/chat/completions", show(url, stream=True))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == FIRST
    assert not worker.received


def test_a_fetched_file_that_is_no_image_is_refused(chat_api: Api, files: FileServer) -> None:
    files.replies |= {"/a.png": Reply(b"<html>"), "/big.png": Reply(PNG + b"x" * 2000)}
    for path in ("/a.png", "/gone.png"):
        answer = chat_api.post("/v1/chat/completions", show(files.url(path)))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, FIRST)


def test_limits_of_number_and_size(chat_api: Api, files: FileServer, settings: Any) -> None:
    settings.MAX_IMAGES, settings.MAX_IMAGE_BYTES = 2, 1024
    files.replies["/big.png"] = Reply(PNG + b"x" * 2000)
    many = chat_api.post("/v1/chat/completions", show(*[to_data_url(PNG)] * 3))
    assert (many.status_code, many.json()["error"]["param"]) == (400, "messages[0].content[3].image_url")
    for url in (files.url("/big.png"), to_data_url(PNG + b"x" * 2000)):
        large = chat_api.post("/v1/chat/completions", show(url))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")
        assert large.json()["error"]["param"] == FIRST


def test_images_that_no_frame_holds_are_refused(
    chat_api: Api, worker: ScriptedWorker, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.inference.media.MAX_FRAME_BYTES", 8 * 1024 * 1024 + 3000)
    files.replies |= {f"/{i}.png": Reply(PNG + bytes([i]) * 2000) for i in range(4)}
    answer = chat_api.post("/v1/chat/completions", show(*[files.url(f"/{i}.png") for i in range(4)]))
    assert answer.status_code == 413
    assert not worker.received


def test_fetching_can_be_switched_off(chat_api: Api, files: FileServer, settings: Any) -> None:
    settings.FETCH_IMAGES = False
    files.replies["/a.png"] = Reply(PNG)
    answer = chat_api.post("/v1/chat/completions", show(files.url("/a.png")))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert not files.asked
    assert chat_api.post("/v1/chat/completions", show(to_data_url(PNG))).status_code == 200


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}, "content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "content[0].image_url.url"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]},
            "content[0].image_url.detail",
        ),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "content"),
    ],
)
def test_parts_that_say_what_cannot_be_done(chat_api: Api, message: dict[str, Any], param: str) -> None:
    answer = chat_api.post("/v1/chat/completions", {"model": "scripted", "messages": [message]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"messages[0].{param}")


@pytest.mark.slow
@pytest.mark.xdist_group("vision")
def test_a_model_that_sees_answers_over_http(api: Api) -> None:
    """A real worker behind the whole application: usage counts what the image becomes, and its refusals are named."""
    with run_worker(make_folder("llava"), num_blocks=256, block_size=4, max_num_seqs=4, max_model_len=300) as worker:
        make_replica(make_model("seeing"), port=worker.port, token=worker.token)
        make_request = partial(show, model="seeing", max_tokens=5, temperature=0)
        url = to_data_url(make_picture(1))
        first, second = (api.post("/v1/chat/completions", make_request(url)).json() for _ in range(2))
        assert first["choices"] == second["choices"]
        assert first["usage"]["prompt_tokens"] > 16 + len("What is it?")
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        other = api.post("/v1/chat/completions", make_request(to_data_url(make_picture(2)))).json()
        assert other["usage"] == first["usage"]
        assert other["choices"] != first["choices"]
        bad = api.post("/v1/chat/completions", make_request(to_data_url(PNG), stream=True))
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, FIRST)
    assert len(wait_for_settled_rows(4)) == 4


def test_no_image_is_fetched_for_a_model_that_is_not_there(chat_api: Api, files: FileServer) -> None:
    answer = chat_api.post("/v1/chat/completions", show(files.url("/a.png"), model="unknown"))
    assert answer.status_code == 404
    assert not files.asked
