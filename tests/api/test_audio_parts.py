"""Recordings in messages, over HTTP: what reaches the worker, what is refused by name, a real model that listens."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from gpu_worker.protocol import Generate
from tests.api.conftest import Api, wait_for_settled_rows
from tests.factories import make_model, make_replica
from tests.file_server import FileServer, Reply, run_file_server
from tests.recordings import make_recording
from tests.scripted_worker import ScriptedWorker
from tests.tiny_listening import make_listening_folder
from tests.tiny_vision import make_picture
from tests.worker_process import DEMO_MODEL, run_worker

WAV, MP3 = make_recording(0.5, seed=10), make_recording(0.5, "mp3", seed=70)


def say(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def point_to(url: str) -> dict[str, Any]:
    return {"type": "audio_url", "audio_url": {"url": url}}


def make_body(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A chat whose one message asks something and lets these be heard."""
    content = [{"type": "text", "text": "What is it?"}, *parts]
    return {"model": "scripted", "messages": [{"role": "user", "content": content}], **fields}


@pytest.fixture
def files(settings: Any) -> Iterator[FileServer]:
    """A server whose address is allowed although it is private."""
    settings.FETCH_PRIVATE_HOSTS, settings.FETCH_TIMEOUT_S = ["127.0.0.1"], 60
    with run_file_server() as server:
        yield server


def test_recordings_travel_once_each_beside_the_messages(
    chat_api: Api, worker: ScriptedWorker, files: FileServer
) -> None:
    files.replies["/b.mp3"] = Reply(MP3)
    body = make_body(say(WAV), point_to(files.url("/b.mp3")), say(WAV))
    answer = chat_api.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    (message,) = [message for message in worker.received if isinstance(message, Generate)]
    keys = [hashlib.sha256(data).hexdigest() for data in (WAV, MP3)]
    assert message.media == dict(zip(keys, (WAV, MP3), strict=True))
    assert message.messages is not None
    assert message.messages[0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "audio", "media": keys[0]},
        {"type": "audio", "media": keys[1]},
        {"type": "audio", "media": keys[0]},
    ]


REFUSED = {
    "nothing": ({"type": "input_audio"}, "input_audio"),
    "empty": ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "input_audio"),
    "another format": (
        {"type": "input_audio", "input_audio": {"data": "aaaa", "format": "flac"}},
        "input_audio.format",
    ),
    "no base64": ({"type": "input_audio", "input_audio": {"data": "@@@@", "format": "wav"}}, "input_audio"),
    "no url": ({"type": "audio_url"}, "audio_url"),
    "this machine": (point_to("http://127.0.0.1/a.wav"), "audio_url"),
    "metadata": (point_to("http://169.254.169.254/latest/meta-data"), "audio_url"),
    "a picture": (point_to("data:image/png;base64,aaaa"), "audio_url"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_recordings_that_cannot_be_had_are_refused_by_name(chat_api: Api, worker: ScriptedWorker, name: str) -> None:
    part, param = REFUSED[name]
    answer = chat_api.post("/v1/chat/completions", make_body(part, stream=True))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"messages[0].content[1].{param}")
    assert not worker.received


def test_large_recordings_are_refused(chat_api: Api, files: FileServer, settings: Any) -> None:
    settings.MAX_AUDIO_BYTES = 1024
    large = WAV[:44] + bytes(2000)
    files.replies["/large.wav"] = Reply(large)
    for part in (say(large), point_to(files.url("/large.wav"))):
        answer = chat_api.post("/v1/chat/completions", make_body(part))
        param = f"messages[0].content[1].{part['type']}"
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, param)


@pytest.mark.slow
def test_a_model_that_takes_no_recordings_says_so(api: Api) -> None:
    with run_worker(DEMO_MODEL, dtype="float32", num_blocks=64, max_model_len=512) as process:
        make_replica(make_model("deaf"), port=process.port, token=process.token)
        answer = api.post("/v1/chat/completions", make_body(say(WAV), model="deaf"))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (
        400,
        "messages[0].content[1]",
        "unsupported_parameter",
    )
    wait_for_settled_rows(1)  # or the next test finds it


@pytest.mark.slow
@pytest.mark.parametrize("family", ["glmasr", "qwen2_audio"])
def test_a_model_that_listens_answers_over_http(api: Api, family: str) -> None:
    """A real worker behind the whole application: usage counts what the recording becomes, refusals are named."""
    folder = make_listening_folder(family)
    with run_worker(folder, num_blocks=256, block_size=4, max_num_seqs=4, max_model_len=400) as process:
        info = process.get_health()[1]["info"]
        assert info["supports_audio"] is True
        assert "supports_images" not in info
        make_replica(make_model("listening"), port=process.port, token=process.token)
        fields = {"model": "listening", "max_tokens": 5, "temperature": 0}
        answers = [
            api.post("/v1/chat/completions", make_body(say(data, kind), **fields))
            for data, kind in ((WAV, "wav"), (WAV, "wav"), (MP3, "mp3"))
        ]
        assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
        first, again, other = (answer.json() for answer in answers)
        assert first["choices"] == again["choices"] != other["choices"]
        assert first["usage"]["prompt_tokens"] > 20
        damaged = api.post("/v1/chat/completions", make_body(say(b"RIFF1234WAVEnoise"), **fields))
        assert (damaged.status_code, damaged.json()["error"]["param"]) == (400, "messages[0].content[1]")
        picture = {"type": "image_url", "image_url": {"url": ""}}
        picture["image_url"]["url"] = f"data:image/png;base64,{base64.b64encode(make_picture(1)).decode()}"
        blind = api.post("/v1/chat/completions", make_body(picture, **fields))
        assert (blind.status_code, blind.json()["error"]["param"]) == (400, "messages[0].content[1].image_url")
    assert len(wait_for_settled_rows(5)) == 5
