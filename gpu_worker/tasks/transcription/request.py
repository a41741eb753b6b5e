"""One recording on its way through the engine, and what is heard of it window by window. It knows no torch."""

from dataclasses import dataclass, field
from typing import Any

from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.protocol import TranscriptionTask


@dataclass(slots=True, eq=False)
class SpeechRequest(Request):
    """`prompt_token_ids` go before every window. `samples` are let go once they have become features."""

    samples: Any = None  # a numpy array of floats, mono
    task: TranscriptionTask = "transcribe"
    language: str | None = None  # its code; set when it is detected
    uses_timestamps: bool = False
    with_segments: bool = False
    with_words: bool = False

    # Written by the engine only.
    position_frames: int = 0  # where the next window begins
    features_1MF: Any = None  # a tensor: M mel bins, F frames of 10 ms
    num_sound_frames: int = 0  # features beyond these are padding


@dataclass(frozen=True, slots=True)
class HeardSegment:
    """A stretch between two time stamps. `token_times_s` are when each token begins and ends, where asked for."""

    start_s: float
    end_s: float
    token_ids: list[int]
    token_times_s: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Window:
    """What was heard in one window."""

    seek_frames: int
    position_frames: int  # where the next one begins
    token_ids: list[int]  # all that were sampled, also those after the last time stamp, which are heard again
    segments: list[HeardSegment]
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0


@dataclass(slots=True)
class WindowOutput(TokenOutput):
    """What one step did for one recording."""

    window: Window | None = None
