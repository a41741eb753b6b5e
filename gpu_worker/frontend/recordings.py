"""Bytes of recordings to samples as one model's processor wants them, no longer than it listens. Fetches nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gpu_worker.frontend.errors import invalid
from gpu_worker.frontend.pictures import MediaRef
from gpu_worker.tasks.transcription.audio import Samples, decode_audio

_USUAL_S = 30.0  # of models that listen to one window


class RecordingLimit(NamedTuple):
    """What a model's processor takes. It would cut what is longer without a word."""

    sampling_rate: int
    max_s: float


def find_limit(processor: Any) -> RecordingLimit:
    """By the processor and its feature extractor. Raises AttributeError where it has none."""
    extractor = processor.feature_extractor
    window_s = float(getattr(extractor, "chunk_length", None) or _USUAL_S)
    longest_s = float(getattr(processor, "max_audio_len", None) or window_s)
    return RecordingLimit(int(extractor.sampling_rate), max(window_s, longest_s // window_s * window_s))


def decode_recordings(refs: Sequence[MediaRef], media: dict[str, bytes], limit: RecordingLimit) -> list[Samples]:
    """One channel each. Raises RequestRejected naming the first that is no good. Blocking."""
    decoded: dict[str, Samples] = {}
    for ref in refs:
        if ref.digest not in decoded:
            if (data := media.get(ref.digest)) is None:
                raise invalid("The recording did not come with the request.", ref.param)
            decoded[ref.digest] = decode_audio(data, limit.sampling_rate, param=ref.param, max_s=limit.max_s)
    return [decoded[ref.digest] for ref in refs]


__all__ = ["RecordingLimit", "Samples", "decode_recordings", "find_limit"]
