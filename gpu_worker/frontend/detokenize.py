"""Token ids to text as they arrive, one at a time. Knows nothing of stop strings, parsers or requests.

The pieces joined are exactly what decoding all ids at once gives (special tokens skipped), and no
piece ever ends within a UTF-8 character.
"""

import codecs
from typing import Protocol

from gpu_worker.frontend.tokenizer import TextTokenizer

_REPLACEMENT = "\ufffd"
# A character has at most four bytes, so at most three tokens are incomplete before it. A longer run
# that decodes to the replacement character is malformed and is let through.
_MAX_HELD_TOKENS = 8


class Detokenizer(Protocol):
    """State of one answer. Amortised O(1) per token."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty for special tokens and in the middle of a character."""

    def flush(self) -> str:
        """What is still held at the end of the answer: an incomplete character as U+FFFD."""


def build_detokenizer(tokenizer: TextTokenizer, visible: frozenset[int] = frozenset()) -> Detokenizer:
    """A fresh detokenizer. Special tokens in `visible` are shown: a parser needs to see them."""
    if tokenizer.is_byte_level:
        return _ByteLevelDetokenizer(tokenizer, visible)
    return _WindowDetokenizer(tokenizer, visible)


class _ByteLevelDetokenizer:
    """Byte-level BPE: every token is a byte string, whatever stands around it."""

    def __init__(self, tokenizer: TextTokenizer, visible: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._visible = visible
        # "replace" substitutes maximal subparts (Unicode 3.9, table 3-8), as Rust's from_utf8_lossy does.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        if self._tokenizer.is_hidden(token_id) and token_id not in self._visible:
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowDetokenizer:
    """Any decoder whose treatment of a token depends on its neighbours alone.

    Decodes a short window and gives out what goes beyond the window's already sent head. The head
    is the last piece sent, so that leading-space and byte-run rules see a real neighbour:

        ... sent and forgotten | head: sent, text known | held: not sent yet
    """

    def __init__(self, tokenizer: TextTokenizer, visible: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._visible = visible
        self._head: list[int] = []
        self._head_text = ""
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        if self._tokenizer.is_hidden(token_id) and token_id not in self._visible:
            return ""
        self._held.append(token_id)
        text = self._tokenizer.decode(self._head + self._held)
        if text.endswith(_REPLACEMENT) and len(self._held) < _MAX_HELD_TOKENS:
            return ""
        return self._send(text)

    def flush(self) -> str:
        return self._send(self._tokenizer.decode(self._head + self._held)) if self._held else ""

    def _send(self, text: str) -> str:
        piece = text[len(self._head_text) :]
        self._head, self._held = self._held, []
        self._head_text = self._tokenizer.decode(self._head)
        return piece
