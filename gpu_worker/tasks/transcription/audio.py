"""Recordings to samples: the bytes of an audio file to one channel of floats. Knows no model and no request.

Blocking, and may be called from any thread. The file comes from a stranger: only the containers listed here are
opened, each by its own demuxer, and no file may name another.
"""

from io import BytesIO
from typing import NoReturn

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler
from av.container import InputContainer

from gpu_worker.frontend.errors import RequestRejected, invalid

MAX_AUDIO_S = 3600  # an hour of samples at 16 kHz takes 230 MB
SUPPORTED = "flac, mp3, mp4, mpeg, mpga, m4a, ogg, opus, wav, webm"

Samples = npt.NDArray[np.float32]


def decode_audio(data: bytes, sampling_rate: int, *, param: str = "file", max_s: float | None = None) -> Samples:
    """All samples, mono, between -1 and 1; of `max_s` seconds at most (None: an hour). Raises RequestRejected naming
    `param`."""
    container_format = _find_format(data)
    if container_format is None:
        raise invalid(f"The audio file is of no format that can be read. Supported: {SUPPORTED}.", param)
    try:
        with av.open(BytesIO(data), "r", format=container_format, io_open=_refuse_to_open) as container:
            return _read_samples(container, sampling_rate, param, max_s or MAX_AUDIO_S)
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise invalid("The audio file is damaged, or not what it says it is.", param) from error


def _read_samples(container: InputContainer, sampling_rate: int, param: str, max_s: float) -> Samples:
    if not container.streams.audio:
        raise invalid("The file holds no sound.", param)
    resampler = AudioResampler(format="fltp", rate=sampling_rate)
    pieces: list[Samples] = []
    num_samples = 0
    for frame in container.decode(container.streams.audio[0]):
        frame.pts = None  # gaps and jumps of a damaged clock: the samples follow each other
        for resampled in resampler.resample(frame):
            pieces.append(_mix(resampled))
            num_samples += len(pieces[-1])
        if num_samples > max_s * sampling_rate:
            limit = f"{max_s // 60:.0f} minutes" if max_s >= 60 else f"{max_s:.0f} seconds"
            raise invalid(f"The recording is longer than {limit}.", param)
    pieces += [_mix(resampled) for resampled in resampler.resample(None)]
    samples: Samples = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    if not len(samples):
        raise invalid("The recording is empty.", param)
    if not np.isfinite(samples).all():
        raise invalid("The recording holds samples that are not numbers.", param)
    return samples


def _mix(frame: av.AudioFrame) -> Samples:
    """The mean of the channels. ffmpeg's own mix of floats is louder than they are."""
    mixed: Samples = frame.to_ndarray().mean(axis=0, dtype=np.float32)
    return mixed


def _find_format(data: bytes) -> str | None:
    """The demuxer for these first bytes. Guessing is not left to ffmpeg, which would also try playlists."""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:4] == b"OggS":
        return "ogg"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        return "aac" if data[:1] == b"\xff" and data[1] & 0xF6 == 0xF0 else "mp3"
    if data[:4] == b"\x00\x00\x01\xba":
        return "mpeg"
    return None


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise RequestRejected("invalid_request", "The audio file refers to another file.", "file")
