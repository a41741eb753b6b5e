"""Recordings of every container become the samples that were put into them; what is no recording is refused by name."""

import numpy as np
import pytest

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.tasks.transcription import audio
from gpu_worker.tasks.transcription.audio import decode_audio
from tests.recordings import RATE, make_recording, make_samples


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "mp4", "ogg", "webm"])
def test_every_container_is_read(container: str) -> None:
    samples = decode_audio(make_recording(2.0, container), RATE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 2 * RATE) < RATE / 5
    assert 0.1 < samples.std() < 0.5


@pytest.mark.parametrize(("container", "tolerance"), [("wav", 1e-4), ("flac", 1e-4)])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_samples_are_exact(container: str, tolerance: float, channels: int) -> None:
    samples = decode_audio(make_recording(1.0, container, channels=channels), RATE)
    assert abs(samples - make_samples(1.0)).max() < tolerance


WAV = make_recording(0.5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        WAV[:20],
        WAV[:44],
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"RIFF\x00\x00\x00\x00WAVE" + bytes(100),
        b"OggS" + b"\x01" * 300,
        b"\x00\x00\x00\x18ftypM4A " + bytes(500),
        b"ID3" + bytes(100),
        b"fLaC" + bytes(100),
        b"\x1aE\xdf\xa3" + bytes(100),
    ],
    ids=["empty", "text", "cut", "header", "playlist", "concat", "wav", "ogg", "mp4", "mp3", "flac", "webm"],
)
def test_what_is_no_recording_is_refused(data: bytes) -> None:
    with pytest.raises(RequestRejected) as caught:
        decode_audio(data, RATE)
    assert (caught.value.code, caught.value.param) == ("invalid_request", "file")


def test_recording_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_AUDIO_S", 1)
    assert len(decode_audio(make_recording(1.0), RATE)) == RATE
    with pytest.raises(RequestRejected, match="longer than"):
        decode_audio(make_recording(1.5), RATE)
