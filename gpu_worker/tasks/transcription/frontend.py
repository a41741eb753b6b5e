"""A `Transcribe` message to what the engine needs: samples, language, prompt tokens. Blocking: runs in a thread pool.

Past this file only valid requests exist. Knows nothing of connections and starts nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from gpu_worker.frontend.errors import check_text, invalid, unsupported
from gpu_worker.protocol import Transcribe
from gpu_worker.tasks.transcription.audio import Samples, decode_audio
from gpu_worker.tasks.transcription.tokens import TranscriptTokens

MAX_TEMPERATURE = 1.0
FRAMES_PER_S = 100


@dataclass(frozen=True)
class SpeechModel:
    """What the model's files say it can do."""

    sampling_rate: int
    window_s: float
    max_target_positions: int  # tokens of one window, prompt included
    language_codes: frozenset[str]  # empty for models of one language
    is_english: bool  # and nothing else
    can_translate: bool
    has_timestamps: bool
    has_alignment_heads: bool


@dataclass(frozen=True)
class PreparedTranscription:
    """A request that is valid for this model."""

    samples: Samples
    duration_s: float
    language: str | None  # a code; None: to be detected
    uses_timestamps: bool  # asked for, or needed to find one's way through a long recording
    prompt_token_ids: list[int]  # with the token that opens a prompt; empty without one
    num_prompt_tokens: int  # what the decoder is given before it writes
    tokens: TranscriptTokens


class TranscriptionFrontend:
    """Decoder of recordings and tokenizer of one speech model. Thread-safe."""

    def __init__(self, tokenizer: Any, model: SpeechModel) -> None:
        self.tokens = TranscriptTokens(tokenizer, "english" if model.is_english else "")
        self.model = model

    def prepare(self, request: Transcribe) -> PreparedTranscription:
        """Raises RequestRejected, which says everything the client may know. The file is looked at last."""
        self._check_numbers(request)
        self._check_abilities(request)
        language = self._resolve_language(request)
        prompt = self._tokenize_prompt(request.prompt)
        samples = decode_audio(request.audio, self.model.sampling_rate)
        duration_s = len(samples) / self.model.sampling_rate
        self._check_resume(request, duration_s)
        uses_timestamps = request.with_segments or duration_s > self.model.window_s
        if uses_timestamps and not self.model.has_timestamps:
            raise unsupported("This model gives no time stamps, without which a long recording is not read.", "file")
        num_start = 1 + 2 * bool(self.model.language_codes) + (self.model.has_timestamps and not uses_timestamps)
        return PreparedTranscription(
            samples=samples,
            duration_s=duration_s,
            language=language,
            uses_timestamps=uses_timestamps,
            prompt_token_ids=prompt,
            num_prompt_tokens=len(prompt) + num_start,
            tokens=self.tokens,
        )

    def _check_numbers(self, request: Transcribe) -> None:
        if not 0.0 <= request.temperature <= MAX_TEMPERATURE:
            raise invalid(f"'temperature' must be between 0 and {MAX_TEMPERATURE:.0f}.", "temperature")
        if not 0 <= request.seed < 2**63:
            raise invalid("'seed' must be a whole number of up to 63 bits.", "seed")
        if not (math.isfinite(request.weight) and request.weight > 0):
            raise invalid("'weight' must be positive.", "weight")

    def _check_abilities(self, request: Transcribe) -> None:
        if request.task == "translate" and not self.model.can_translate:
            raise unsupported("This model cannot translate.", "model")
        if request.with_segments and not self.model.has_timestamps:
            raise unsupported("This model gives no time stamps.", "response_format")
        if request.with_words and not self.model.has_alignment_heads:
            raise unsupported(
                "This model gives no time stamps of words: its generation config names no alignment heads.",
                "timestamp_granularities",
            )

    def _resolve_language(self, request: Transcribe) -> str | None:
        """The language's code; None where it is to be detected, and for a model of one language."""
        given = (request.resume.language if request.resume else request.language) or ""
        given = given.strip().lower()
        if not given:
            return None
        code = TO_LANGUAGE_CODE.get(given, given)
        if not self.model.language_codes:
            if code != "en" or not self.model.is_english:
                only = "knows English only" if self.model.is_english else "cannot be told a language"
                raise unsupported(f"This model {only}.", "language")
            return None
        if code not in self.model.language_codes:
            if code in LANGUAGES:
                raise unsupported(f"This model does not know the language {code!r}.", "language")
            raise invalid("'language' must be a language's ISO 639-1 code, such as \"en\".", "language")
        return code

    def _tokenize_prompt(self, text: str) -> list[int]:
        """The end of the text, as much as Whisper's authors give to the decoder, after the token that says so."""
        if not text.strip():
            return []
        opening = self.tokens.prompt_opening_id
        if opening is None:
            raise unsupported("This model takes no prompt.", "prompt")
        token_ids = self.tokens.encode(" " + check_text(text, "prompt").strip())
        if any(self.tokens.is_control(token_id) for token_id in token_ids):
            raise invalid("'prompt' must not hold the model's control tokens.", "prompt")
        return [opening, *token_ids[-(self.model.max_target_positions // 2 - 1) :]]

    def _check_resume(self, request: Transcribe, duration_s: float) -> None:
        last_frame = max(duration_s, self.model.window_s) * FRAMES_PER_S
        if request.resume is not None and not 0 <= request.resume.position_frames < last_frame:
            raise invalid("'resume' does not fit the recording.", "resume")
