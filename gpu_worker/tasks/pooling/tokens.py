"""Texts and pairs of texts to token ids with their special tokens, cut to a length where asked. Any thread may call."""

import threading
from collections.abc import Sequence as Items
from typing import Any

import tokenizers

from gpu_worker.tasks.pooling.request import Sequence

_CHUNK = 64  # texts that are tokenized before other threads get their turn


class InputTokenizer:
    """Wraps a transformers tokenizer. The Rust ones are called directly: their batch call releases the GIL."""

    def __init__(self, tokenizer: Any, *, lower_cases: bool = False) -> None:
        self._hf = tokenizer
        self._lower_cases = lower_cases
        self._lock = threading.Lock()
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if isinstance(backend, tokenizers.Tokenizer) else None
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()

    def encode(self, texts: Items[str], seconds: Items[str] | None = None) -> list[Sequence]:
        """Each text, or each with its second, with special tokens and without any limit."""
        if self._lower_cases:
            texts, seconds = [text.lower() for text in texts], seconds and [text.lower() for text in seconds]
        encoded: list[Sequence] = []
        for start in range(0, len(texts), _CHUNK):
            part = texts[start : start + _CHUNK]
            encoded += self._encode_some(part, seconds and seconds[start : start + _CHUNK])
        return encoded

    def cut(self, text: str, second: str | None, max_tokens: int) -> Sequence | None:
        """The same with at most so many tokens: the ends are dropped, of a pair the longer one's first.

        None when not even the special tokens fit.
        """
        if self._lower_cases:
            text, second = text.lower(), second and second.lower()
        if self._backend is None:
            return self._call(text, second, truncation=True, max_length=max_tokens)
        room = max_tokens - self._backend.num_special_tokens_to_add(second is not None)
        if room < 1:
            return None
        parts = [self._backend.encode(part, add_special_tokens=False) for part in (text, second) if part is not None]
        lengths = [room] if second is None else share_room(len(parts[0]), len(parts[1]), room)
        for part, length in zip(parts, lengths, strict=True):
            part.truncate(length)
        whole = self._backend.post_process(parts[0], parts[1] if second is not None else None)
        return Sequence(whole.ids, whole.type_ids)

    def count_prompt(self, prompt: str) -> int:
        """Tokens at the beginning of an input that are the prompt's: a closing special token is not among them."""
        token_ids = self.encode([prompt])[0].token_ids
        ends_special = bool(token_ids) and token_ids[-1] in self._hf.all_special_ids
        return len(token_ids) - ends_special

    def _encode_some(self, texts: Items[str], seconds: Items[str] | None) -> list[Sequence]:
        if self._backend is None:
            return [self._call(text, seconds[i] if seconds else None) for i, text in enumerate(texts)]
        items: list[Any] = list(zip(texts, seconds, strict=True)) if seconds else list(texts)
        encodings = self._backend.encode_batch_fast(items, add_special_tokens=True)
        return [Sequence(encoding.ids, encoding.type_ids) for encoding in encodings]

    def _call(self, text: str, second: str | None, **options: Any) -> Sequence:
        with self._lock:
            encoding = self._hf(text, second, return_token_type_ids=True, **options)
        return Sequence(list(encoding["input_ids"]), list(encoding["token_type_ids"]))


def share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """The lengths of a pair's two texts when together they may have `room` tokens: the longer one gives."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)
