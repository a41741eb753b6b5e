"""Recordings made on the spot: tones and noise in any container, for tests of speech models. Nobody speaks in them."""

import io

import av
import numpy as np

RATE = 16_000
# container -> (codec, sample rate)
_CODECS = {
    "wav": ("pcm_s16le", RATE),
    "flac": ("flac", RATE),
    "mp3": ("libmp3lame", RATE),
    "mp4": ("aac", RATE),
    "ogg": ("libopus", 48_000),
    "webm": ("libopus", 48_000),
}


def make_samples(duration_s: float, *, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise, between -1 and 1."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 + 40 * seed + 15 * time_s) * time_s)
    samples = 0.4 * tone * (np.sin(2 * np.pi * 0.7 * time_s) > 0) + 0.1 * generator.standard_normal(len(time_s))
    return np.clip(samples, -1, 1).astype(np.float32)


def make_recording(duration_s: float, container: str = "wav", *, seed: int = 0, channels: int = 1) -> bytes:
    """The bytes of an audio file."""
    codec, rate = _CODECS[container]
    layout = "mono" if channels == 1 else "stereo"
    samples = np.repeat((make_samples(duration_s, seed=seed) * 32767).astype(np.int16), channels)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout=layout)
    frame.sample_rate = RATE
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate, frame_size=stream.codec_context.frame_size
        )
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(resampled))
        output.mux(stream.encode(None))
    return target.getvalue()
