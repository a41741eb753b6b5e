"""What a model cannot do is refused by the name of the field."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.protocol import TranscriptResume
from gpu_worker.tasks.transcription.load import LoadedTranscription
from tests.recordings import make_recording
from tests.tiny_whisper import MAX_TARGET_POSITIONS
from tests.worker.transcription.conftest import load_tiny_whisper
from tests.worker.transcription.driving import ask, transcribe


def refuse(loaded: LoadedTranscription, **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(RequestRejected) as caught:
        loaded.frontend.prepare(ask(make_recording(1.0), **fields))
    return caught.value.code, caught.value.param


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"language": "xx"}, "invalid_request", "language"),
        ({"language": "fr"}, "unsupported", "language"),
        ({"temperature": 1.5}, "invalid_request", "temperature"),
        ({"temperature": float("nan")}, "invalid_request", "temperature"),
        ({"prompt": "<|endoftext|>"}, "invalid_request", "prompt"),
        ({"prompt": "\ud800"}, "invalid_request", "prompt"),
        ({"seed": -1}, "invalid_request", "seed"),
        ({"weight": 0.0}, "invalid_request", "weight"),
        ({"resume": TranscriptResume(10_000, "english", 3)}, "invalid_request", "resume"),
    ],
    ids=lambda value: None,
)
def test_refused_by_name(loaded: LoadedTranscription, fields: dict[str, Any], code: str, param: str) -> None:
    assert refuse(loaded, **fields) == (code, param)


def test_model_of_one_language(english_folder: Path) -> None:
    loaded = load_tiny_whisper(english_folder)
    assert refuse(loaded, language="de") == ("unsupported", "language")
    assert refuse(loaded, task="translate") == ("unsupported", "model")
    assert refuse(loaded, with_words=True) == ("unsupported", "timestamp_granularities")
    (heard,) = transcribe(loaded, ask(make_recording(1.0), language="en"))
    assert heard.text
    assert heard.deltas[0].transcript.language == "english"


def test_only_the_end_of_a_long_prompt_counts(loaded: LoadedTranscription) -> None:
    recording = make_recording(1.0)
    end = "once upon a time there was a story of many words"
    (first,) = transcribe(loaded, ask(recording, prompt="what came first " + end))
    (second,) = transcribe(loaded, ask(recording, prompt="something else " + end))
    assert first.segments == second.segments
    assert first.active.num_prompt_tokens == second.active.num_prompt_tokens == MAX_TARGET_POSITIONS // 2 + 3


def test_words_have_the_times_of_their_tokens(loaded: LoadedTranscription) -> None:
    tokens = loaded.frontend.tokens
    token_ids = tokens.encode(" so it is, yes")
    times = [(float(index), index + 1.0) for index in range(len(token_ids))]
    words = tokens.split_words(token_ids, times, "english")
    assert [word.word for word in words] == ["so", "it", "is,", "yes"]
    assert (words[0].start_s, words[-1].end_s) == (0.0, float(len(token_ids)))
    assert all(first.end_s == second.start_s for first, second in pairwise(words))
    assert tokens.split_words([], [], "english") == []
