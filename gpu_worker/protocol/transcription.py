"""Speech to text in the protocol: what a web process asks, and what a worker says beside the text."""

from collections.abc import Iterator
from typing import Literal

import msgspec

MAX_CHUNK_BYTES = 256 * 1024

TranscriptionTask = Literal["transcribe", "translate"]


class TranscriptResume(msgspec.Struct, frozen=True):
    """How far a replica that died had come: its last `TranscriptPiece`, and the tokens that were sent."""

    position_frames: int
    language: str
    num_tokens: int


class Transcribe(msgspec.Struct, frozen=True, omit_defaults=True, tag="transcribe"):
    """Write down what is said in a recording. Its events come back under the same `id`.

    `audio` is the file as it was uploaded, or the end of it: `AudioChunk`s of the same id that came before, on the
    same connection, are its beginning. Each window of 30 seconds ends in one `Delta` with a `transcript`.
    """

    id: str
    audio: bytes
    task: TranscriptionTask = "transcribe"  # "translate": into English
    language: str | None = None  # code or English name; None: heard from the first window
    prompt: str = ""  # text that is taken to come before
    temperature: float = 0.0  # 0 is greedy
    seed: int = 0
    with_segments: bool = False
    with_words: bool = False  # implies with_segments
    user: str = ""
    weight: float = 1.0
    priority: int = 0
    resume: TranscriptResume | None = None


class AudioChunk(msgspec.Struct, frozen=True, tag="audio"):
    """A piece of the recording of a `Transcribe` that is still to come. Nothing is answered to it."""

    id: str
    data: bytes


def split_audio(message: Transcribe) -> Iterator[AudioChunk | Transcribe]:
    """The same in messages of which none is large, so that nobody waits long behind one. The last is the request."""
    position = 0
    while len(message.audio) - position > MAX_CHUNK_BYTES:
        yield AudioChunk(message.id, message.audio[position : position + MAX_CHUNK_BYTES])
        position += MAX_CHUNK_BYTES
    yield msgspec.structs.replace(message, audio=message.audio[position:])


class TranscriptWord(msgspec.Struct, frozen=True, array_like=True):
    """One word, without the space before it, and when it is said."""

    word: str
    start_s: float
    end_s: float


class TranscriptSegment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stretch of speech between two of the model's own time stamps.

    The three measures are those of the window that it was heard in, as Whisper's authors define them.
    """

    start_s: float
    end_s: float
    text: str
    token_ids: list[int]
    seek_frames: int  # where that window begins, in hundredths of a second
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: list[TranscriptWord] = []


class TranscriptPiece(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one window adds to a transcription beside its text."""

    position_frames: int  # where the next window begins: what a resume must send
    duration_s: float  # of the whole recording
    language: str = ""  # its English name, where it is known
    segments: list[TranscriptSegment] = []  # where they were asked for
