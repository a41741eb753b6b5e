"""What is heard, window by window and beside others, is what one call of the library's `generate` hears."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_worker.protocol import TranscriptResume
from gpu_worker.tasks.transcription.audio import decode_audio
from gpu_worker.tasks.transcription.load import LoadedTranscription
from tests.recordings import RATE, make_recording
from tests.tiny_whisper import make_tokenizer
from tests.worker.transcription.conftest import load_tiny_whisper
from tests.worker.transcription.driving import Heard, ask, begin, generate, run, transcribe

pytestmark = pytest.mark.slow  # real workers: seconds each

SHORT_S, LONG_S = 4.0, 70.0


def hear(recording: bytes) -> Any:
    """The samples that a worker finds in a file."""
    return decode_audio(recording, RATE)


def flatten(segments: list[dict[str, Any]]) -> list[int]:
    return [token_id for segment in segments for token_id in segment["tokens"].tolist()]


def list_tokens(heard: Heard) -> list[int]:
    return [token_id for segment in heard.segments for token_id in segment.token_ids]


@pytest.mark.parametrize("duration_s", [SHORT_S, LONG_S], ids=["short", "long"])
@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {"task": "transcribe"}),
        ({"language": "de"}, {"language": "de", "task": "transcribe"}),
        ({"language": "Korean", "task": "translate"}, {"language": "ko", "task": "translate"}),
    ],
    ids=["detected", "given", "translated"],
)
def test_segments_are_those_of_generate(
    whisper_folder: Path, loaded: LoadedTranscription, duration_s: float, fields: Any, options: Any
) -> None:
    recording = make_recording(duration_s)
    expected = generate(whisper_folder, hear(recording), return_timestamps=True, **options)["segments"][0]
    (heard,) = transcribe(loaded, ask(recording, **fields))
    assert list_tokens(heard) == flatten(expected)
    times = [(segment.start_s, segment.end_s) for segment in heard.segments]
    clipped = [(min(float(s["start"]), duration_s), min(float(s["end"]), duration_s)) for s in expected]
    assert times == [pytest.approx(pair, abs=0.006) for pair in clipped]
    assert heard.end.reason == "stop"


def test_short_recording_without_timestamps(whisper_folder: Path, loaded: LoadedTranscription) -> None:
    recording = make_recording(SHORT_S)
    outputs = generate(whisper_folder, hear(recording), task="transcribe", language="en")
    (heard,) = transcribe(loaded, ask(recording, language="en", with_segments=False))
    assert heard.text == make_tokenizer().decode(outputs["sequences"][0], skip_special_tokens=True).lstrip()
    assert heard.text
    assert heard.segments == []


def test_prompt_goes_before_every_window(whisper_folder: Path, loaded: LoadedTranscription) -> None:
    recording = make_recording(LONG_S)
    prompt_ids = make_tokenizer().get_prompt_ids("names and terms", return_tensors="pt")
    options = {"task": "transcribe", "language": "en", "return_timestamps": True}
    expected = generate(whisper_folder, hear(recording), prompt_ids=prompt_ids, **options)["segments"][0]
    (heard,) = transcribe(loaded, ask(recording, language="en", prompt="names and terms"))
    assert list_tokens(heard) == flatten(expected)
    assert heard.active.num_prompt_tokens == len(prompt_ids) + 3
    (plain,) = transcribe(loaded, ask(recording, language="en"))
    assert list_tokens(plain) != list_tokens(heard)


@pytest.mark.filterwarnings("ignore:std")  # of the library's, where a segment has a single token
@pytest.mark.parametrize("duration_s", [SHORT_S, LONG_S], ids=["short", "long"])
def test_times_of_words_are_those_of_generate(
    whisper_folder: Path, loaded: LoadedTranscription, duration_s: float
) -> None:
    recording = make_recording(duration_s)
    options = {"task": "transcribe", "language": "en", "return_timestamps": True, "return_token_timestamps": True}
    expected = generate(whisper_folder, hear(recording), **options)["segments"][0]
    (heard,) = transcribe(loaded, ask(recording, language="en", with_words=True))
    assert list_tokens(heard) == flatten(expected)
    for segment, wanted in zip(heard.segments, expected, strict=True):
        if wanted["start"] >= duration_s:
            continue  # heard in the silence after the end, where the library counts from the wrong side
        ends = {round(min(float(time), duration_s), 2) for time in wanted["token_timestamps"]}
        assert all(word.end_s in ends and word.start_s in ends for word in segment.words)
        assert all(word.start_s <= word.end_s for word in segment.words)
    assert any(segment.words for segment in heard.segments)


@pytest.mark.filterwarnings("ignore:std")
def test_words_leave_the_model_as_it_was(whisper_folder: Path, loaded: LoadedTranscription) -> None:
    recording = make_recording(SHORT_S)
    (before,) = transcribe(loaded, ask(recording))
    transcribe(loaded, ask(recording, with_words=True))
    (after,) = transcribe(loaded, ask(recording))
    assert after.segments == before.segments


def test_recordings_together_are_heard_as_alone(loaded: LoadedTranscription) -> None:
    messages = [
        ask(
            make_recording(duration_s, seed=seed),
            f"r{seed}-{temperature}",
            temperature=temperature,
            user=f"u{seed}",
        )
        for seed, duration_s in enumerate((SHORT_S, 40.0))
        for temperature in (0.0, 0.8)
    ]
    alone = [transcribe(loaded, message)[0] for message in messages]
    together = transcribe(loaded, *messages)
    assert [heard.segments for heard in together] == [heard.segments for heard in alone]
    assert [heard.text for heard in together] == [heard.text for heard in alone]


def test_seed_decides_what_is_sampled(loaded: LoadedTranscription) -> None:
    recording = make_recording(SHORT_S)
    texts = [transcribe(loaded, ask(recording, temperature=1.0, seed=seed))[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_resumed_transcription_goes_on_where_it_stopped(whisper_folder: Path, loaded: LoadedTranscription) -> None:
    recording = make_recording(LONG_S)
    (whole,) = transcribe(loaded, ask(recording, temperature=0.5, seed=3))
    assert len(whole.deltas) > 2
    first = whole.deltas[0].transcript
    assert first is not None
    resume = TranscriptResume(first.position_frames, first.language, len(whole.deltas[0].token_ids))
    other = load_tiny_whisper(whisper_folder)
    (rest,) = transcribe(other, ask(recording, temperature=0.5, seed=3, resume=resume))
    assert rest.segments == [segment for delta in whole.deltas[1:] for segment in delta.transcript.segments]
    assert rest.end.usage == whole.end.usage


def test_usage_counts_every_token(loaded: LoadedTranscription) -> None:
    (heard,) = transcribe(loaded, ask(make_recording(40.0)))
    assert heard.end.usage.completion_tokens == sum(len(delta.token_ids) for delta in heard.deltas)
    assert heard.end.usage.completion_tokens >= len(list_tokens(heard))
    assert heard.end.usage.prompt_tokens == 3


def test_users_take_turns(loaded: LoadedTranscription) -> None:
    long = [begin(loaded, ask(make_recording(LONG_S, seed=seed), f"long{seed}", user="a")) for seed in range(3)]
    run(loaded, *long, num_steps=1)
    short = begin(loaded, ask(make_recording(SHORT_S), "short", with_segments=False, user="b"))
    run(loaded, *long, short, num_steps=2)
    assert short.events[-1] == short.end
    assert loaded.engine.stats().num_running + loaded.engine.stats().num_waiting == 3


def test_abort_between_windows(loaded: LoadedTranscription) -> None:
    heard = begin(loaded, ask(make_recording(LONG_S)))
    run(loaded, heard, num_steps=1)
    output = loaded.engine.abort("r/0")
    assert output is not None
    assert output.finish_reason == "abort"
    assert not loaded.engine.has_work()
    assert heard.active.read(heard.active.choices[0], output)[-1].usage.completion_tokens > 0
    assert loaded.engine.abort("r/0") is None


def test_failed_window_ends_its_requests_and_the_engine_goes_on(
    loaded: LoadedTranscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(loaded, ask(make_recording(SHORT_S)))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "manual_seed", lambda seed: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loaded.engine.step()
    (output,) = loaded.engine.reset("broken")
    assert output.error == "broken"
    assert not loaded.engine.has_work()
    assert transcribe(loaded, ask(make_recording(SHORT_S)))[0].text


def test_measures_are_of_the_window(loaded: LoadedTranscription) -> None:
    (heard,) = transcribe(loaded, ask(make_recording(SHORT_S)))
    segment = heard.segments[0]
    assert segment.avg_logprob < 0
    assert 0 < segment.no_speech_prob < 1
    assert segment.compression_ratio > 0
