"""The wire formats of transcriptions, letter by letter."""

import json

import pytest

from apps.openai_api.encoders.transcriptions import TranscriptionFold
from apps.openai_api.multipart import Form
from apps.openai_api.schemas.transcriptions import parse_transcription
from gpu_worker.protocol import Delta, TranscriptPiece, TranscriptSegment, TranscriptWord
from tests.api.test_schemas import CALLER

SRT = """1
00:00:00,000 --> 00:00:02,500
Hello, world.

2
01:01:01,050 --> 01:01:03,000
It -> goes on.

"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:02.500
Hello, world.

01:01:01.050 --> 01:01:03.000
It -> goes on.

"""
PIECES = (
    TranscriptPiece(250, 3663.0, "english", [TranscriptSegment(0.0, 2.5, " Hello, world.", [5, 6], 0)]),
    TranscriptPiece(
        366_300,
        3663.0,
        "english",
        [
            TranscriptSegment(2.5, 2.5, "", [], 250),
            TranscriptSegment(
                3661.05,
                3663.0,
                " It --> goes\n\non.",
                [7],
                250,
                -0.5,
                1.25,
                0.125,
                [TranscriptWord("It", 3661.05, 3661.5)],
            ),
        ],
    ),
)


def encode(response_format: str, *granularities: str) -> str:
    fields = {"model": ["m"], "response_format": [response_format], "timestamp_granularities[]": list(granularities)}
    fold = TranscriptionFold(parse_transcription(Form(fields, {"file": b"x"}), CALLER, "transcribe"))
    for text, piece in zip(("Hello, world.", " It --> goes\n\non."), PIECES, strict=True):
        fold.add_delta(Delta("", text=text, transcript=piece))
    return fold.encode().decode()


@pytest.mark.parametrize(("response_format", "expected"), [("srt", SRT), ("vtt", VTT)])
def test_subtitles(response_format: str, expected: str) -> None:
    assert encode(response_format) == expected


def test_text_and_json() -> None:
    text = "Hello, world. It --> goes\n\non."
    assert encode("text") == text + "\n"
    assert json.loads(encode("json")) == {"text": text, "usage": {"type": "duration", "seconds": 3663}}


def test_verbose_json() -> None:
    answer = json.loads(encode("verbose_json", "word", "segment"))
    assert list(answer) == ["task", "language", "duration", "text", "words", "segments", "usage"]
    assert answer["words"] == [{"word": "It", "start": 3661.05, "end": 3661.5}]
    assert answer["segments"][2] == {
        "id": 2,
        "seek": 250,
        "start": 3661.05,
        "end": 3663.0,
        "text": " It --> goes\n\non.",
        "tokens": [7],
        "temperature": 0.0,
        "avg_logprob": -0.5,
        "compression_ratio": 1.25,
        "no_speech_prob": 0.125,
    }
