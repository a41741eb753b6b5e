"""Tokens of a speech model to text and words, and a prompt to tokens. Knows no audio and no request."""

from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES, _collate_word_timestamps

from gpu_worker.frontend.answer import AnswerStream, EndRules
from gpu_worker.frontend.detokenize import build_detokenizer
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import TranscriptWord

_PROMPT_OPENING = "<|startofprev|>"


class TranscriptTokens:
    """The tokenizer of a Whisper-style model: text, control tokens, and time stamps, of which some may be unnamed."""

    def __init__(self, tokenizer: Any, only_language: str = "") -> None:
        self.text = TextTokenizer(tokenizer)
        self._only_language = only_language
        opening = tokenizer.convert_tokens_to_ids(_PROMPT_OPENING)
        self._added = frozenset(tokenizer.get_added_vocab().values())
        self.prompt_opening_id: int | None = opening if opening in self._added else None

    def encode(self, text: str) -> list[int]:
        """Token ids without anything around them."""
        return self.text.encode(text, add_special_tokens=False)

    def is_control(self, token_id: int) -> bool:
        """Whether it stands for no text: special tokens and time stamps."""
        return token_id in self._added or self.text.is_hidden(token_id)

    def decode(self, token_ids: list[int]) -> str:
        """The text alone."""
        return self.text.decode([token_id for token_id in token_ids if not self.is_control(token_id)])

    def open_stream(self) -> AnswerStream:
        """For text that comes a window at a time."""
        return AnswerStream(build_detokenizer(self.text), EndRules())

    def name_language(self, code: str | None) -> str:
        """Its English name, as the API says it; empty when it is not known."""
        return LANGUAGES.get(code, code) if code else self._only_language

    def split_words(
        self, token_ids: list[int], times: list[tuple[float, float]], language: str
    ) -> list[TranscriptWord]:
        """The words of a segment; `times` are when each of its tokens begins and ends."""
        pairs = [pair for pair in zip(token_ids, times, strict=True) if not self.is_control(pair[0])]
        if not pairs:  # which the library does not expect
            return []
        words = _collate_word_timestamps(
            self.text.hf, [token_id for token_id, _ in pairs], [time for _, time in pairs], language or "english", False
        )
        return [TranscriptWord(word["text"].strip(), *word["timestamp"]) for word in words if word["text"].strip()]
