"""POST /v1/audio/transcriptions and /translations over HTTP, answered by a real worker with a tiny speech model."""

import http.client
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from apps.usage.models import UsageStatus
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.sse import parse_events
from tests.api.whisper_fixtures import audio_api, whisper_folder, whisper_worker
from tests.factories import make_model, make_replica
from tests.recordings import make_recording
from tests.worker_process import WorkerProcess, run_worker

__all__ = ["audio_api", "whisper_folder", "whisper_worker"]  # fixtures
pytestmark = pytest.mark.slow  # real workers: seconds each

PATH = "/v1/audio/transcriptions"
SHORT = make_recording(3.0)
LONG = make_recording(65.0)


def post(api: Api, audio: bytes = SHORT, path: str = PATH, **fields: Any) -> httpx.Response:
    with api.client() as client:
        return client.post(path, data={"model": "whisper", **fields}, files={"file": ("a.wav", audio)})


def read_verbose(api: Api, audio: bytes = SHORT, **fields: Any) -> Any:
    response = post(api, audio, response_format="verbose_json", **fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_json_and_text_say_the_same(audio_api: Api) -> None:
    answer = post(audio_api).json()
    assert answer["text"]
    assert answer["usage"] == {"type": "duration", "seconds": 3}
    plain = post(audio_api, response_format="text")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert plain.text == answer["text"] + "\n"


def test_verbose_json(audio_api: Api) -> None:
    answer = read_verbose(audio_api, LONG, language="de")
    assert (answer["task"], answer["language"], answer["duration"]) == ("transcribe", "german", 65.0)
    segments = answer["segments"]
    assert [segment["id"] for segment in segments] == list(range(len(segments)))
    assert {segment["seek"] for segment in segments} > {0}
    assert all(segment["start"] <= segment["end"] <= 65 for segment in segments)
    assert "".join(segment["text"] for segment in segments).lstrip() == answer["text"]
    assert set(segments[0]) == {
        "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio",
        "no_speech_prob",
    }  # fmt: skip
    assert "words" not in answer


def test_words_alone_and_with_segments(audio_api: Api) -> None:
    words = read_verbose(audio_api, **{"timestamp_granularities[]": "word"})
    assert "segments" not in words
    assert words["words"]
    assert set(words["words"][0]) == {"word", "start", "end"}
    both = read_verbose(audio_api, **{"timestamp_granularities[]": ["word", "segment"]})
    assert both["words"] == words["words"]
    assert both["segments"]


@pytest.mark.parametrize(("response_format", "kind"), [("srt", "text/plain"), ("vtt", "text/vtt")])
def test_subtitles(audio_api: Api, response_format: str, kind: str) -> None:
    response = post(audio_api, LONG, response_format=response_format)
    assert response.headers["content-type"].startswith(kind)
    assert response.text.count(" --> ") > 1
    assert response.text.startswith("WEBVTT\n\n00:00:" if response_format == "vtt" else "1\n00:00:")


def test_stream_is_the_answer_in_pieces(audio_api: Api) -> None:
    whole = post(audio_api, LONG).json()["text"]
    response = post(audio_api, LONG, stream="true")
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = parse_events(response.text)
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 1
    assert "".join(event["delta"] for event in deltas) == whole
    assert (done["type"], done["text"]) == ("transcript.text.done", whole)
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("container", ["flac", "mp3", "mp4", "ogg", "webm"])
def test_every_container_is_taken(audio_api: Api, container: str) -> None:
    assert post(audio_api, make_recording(1.0, container)).json()["text"]


def test_translation(audio_api: Api) -> None:
    response = post(audio_api, path="/v1/audio/translations", response_format="verbose_json")
    answer = response.json()
    assert (answer["task"], answer["language"]) == ("translate", "english")
    assert answer["text"] != read_verbose(audio_api)["text"]
    rows = wait_for_settled_rows(2)
    assert {row.endpoint for row in rows} == {"audio.transcriptions", "audio.translations"}
    assert {row.status for row in rows} == {UsageStatus.OK}


def test_prompt_language_and_seed_change_the_answer(audio_api: Api) -> None:
    texts = [
        post(audio_api, language="en", **fields).json()["text"]
        for fields in ({}, {"prompt": "names"}, {"temperature": "1", "seed": "1"}, {"temperature": "1", "seed": "2"})
    ]
    assert len(set(texts)) == 4
    assert post(audio_api, language="en", temperature="1", seed="1").json()["text"] == texts[2]


def test_one_row_with_the_engines_counts(audio_api: Api) -> None:
    usage = parse_events(post(audio_api, LONG, stream="true").text)[-1]["usage"]
    (row,) = wait_for_settled_rows(1)
    assert (row.endpoint, row.status, row.streamed) == ("audio.transcriptions", UsageStatus.OK, True)
    assert (row.prompt_tokens, row.completion_tokens) == (usage["input_tokens"], usage["output_tokens"])
    assert row.completion_tokens > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_client_that_leaves_stops_the_work_and_is_counted(
    audio_api: Api, whisper_worker: WorkerProcess, stream: bool
) -> None:
    request = httpx.Request(
        "POST",
        audio_api.url + PATH,
        data={"model": "whisper", "stream": str(stream).lower(), "response_format": "json"},
        files={"file": ("a.wav", make_recording(300.0))},
    )
    headers = audio_api.headers | {"content-type": request.headers["content-type"]}
    connection = http.client.HTTPConnection(urlsplit(audio_api.url).netloc, timeout=30)
    connection.request("POST", PATH, request.read(), headers)
    if stream:
        response = connection.getresponse()
        while not response.readline().startswith(b"data: "):
            pass
    else:
        wait_until(whisper_worker, busy=True)
    connection.close()
    (row,) = wait_for_settled_rows(1)
    assert row.status == UsageStatus.CANCELLED
    assert row.prompt_tokens == 3
    wait_until(whisper_worker, busy=False)


@pytest.mark.slow
def test_another_replica_goes_on_where_a_killed_one_stopped(
    api: Api, whisper_worker: WorkerProcess, whisper_folder: Path
) -> None:
    recording = make_recording(120.0)
    model = make_model("whisper")
    with run_worker(whisper_folder) as killed, api.client() as client:
        make_replica(model, port=killed.port, token=killed.token)
        fields = {"model": "whisper", "stream": "true", "temperature": "0.5", "seed": "7"}
        files = {"file": ("a.wav", recording)}
        whole = parse_events(client.post(PATH, data=fields, files=files).text)[-1]
        with client.stream("POST", PATH, data=fields, files=files) as response:
            lines = response.iter_lines()
            text = ""
            while "data: " not in text:
                text += next(lines) + "\n"
            make_replica(model, port=whisper_worker.port, token=whisper_worker.token)
            killed.process.kill()
            text += "\n".join(lines)
    done = parse_events(text + "\n\n")[-1]
    assert done == whole
    assert {row.status for row in wait_for_settled_rows(2)} == {UsageStatus.OK}


def wait_until(worker: WorkerProcess, *, busy: bool) -> None:
    while bool(worker.get_health()[1]["stats"]["num_running"]) != busy:
        pass


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "mp3"}, "response_format"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"seed": "x"}, "seed"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"language": "Klingon"}, "language"),
        ({"language": "fr"}, "language"),
        ({"prompt": "<|endoftext|>"}, "prompt"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"include[]": "logprobs"}, "include"),
        ({"chunking_strategy": "auto"}, "chunking_strategy"),
        ({"model": ["whisper", "other"]}, "model"),
        ({"lang": "en"}, "lang"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_refused_by_name(audio_api: Api, fields: dict[str, Any], param: str) -> None:
    response = post(audio_api, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_bookkeeping_and_neutral_fields_pass(audio_api: Api) -> None:
    assert post(audio_api, user="me", chunking_strategy="", top_p="1", language="").status_code == 200


@pytest.mark.parametrize("audio", [b"", b"no recording at all", SHORT[:30]], ids=["empty", "text", "cut"])
def test_bad_recording_is_a_400_that_names_the_file(audio_api: Api, audio: bytes) -> None:
    response = post(audio_api, audio)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "file")


def test_models_of_another_kind_are_refused(audio_api: Api) -> None:
    body = {"model": "whisper", "messages": [{"role": "user", "content": "hi"}]}
    response = audio_api.post("/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")


def make_openai(api: Api) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.secret, max_retries=0)


def test_openai_sdk(audio_api: Api) -> None:
    with make_openai(audio_api) as client:
        create = client.audio.transcriptions.create
        plain = create(model="whisper", file=("a.wav", LONG))
        assert plain.text
        verbose = create(
            model="whisper",
            file=("a.wav", LONG),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        assert verbose.segments
        assert verbose.words
        assert create(model="whisper", file=("a.wav", LONG), response_format="srt").startswith("1\n00:00:")
        events = list(create(model="whisper", file=("a.wav", LONG), stream=True))
        assert "".join(event.delta for event in events[:-1]) == events[-1].text == plain.text
        with pytest.warns(DeprecationWarning, match="deprecated"):  # by the SDK, not by the API
            assert client.audio.translations.create(model="whisper", file=("a.wav", SHORT)).text
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="whisper", file=("a.wav", b"nothing"))
        assert caught.value.param == "file"
