"""Text to token ids and back, over a transformers tokenizer of any kind.

Every method may be called from any thread. Knows nothing of chats, requests or engines.
"""

import re
import threading
from functools import cached_property, lru_cache
from typing import Any

import tokenizers
from tokenizers.decoders import ByteLevel

from gpu_worker.frontend.byte_level import byte_level_bytes

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TextTokenizer:
    """Wraps a transformers tokenizer for concurrent use, without truncation, padding or clean-up of spaces.

    Fast tokenizers are called through their Rust backend directly: `encode_batch_fast` is the one
    entry that releases the GIL, so that a long prompt does not delay the event loop. Slow ones
    (pure Python, SentencePiece) are not promised to be thread-safe and run under a lock.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.hf = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if isinstance(backend, tokenizers.Tokenizer) else None
        self._lock = threading.Lock()
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._added = self._backend.get_added_tokens_decoder()
            self._special_ids = frozenset(i for i, token in self._added.items() if token.special)
        else:
            self._added = dict(getattr(tokenizer, "added_tokens_decoder", {}))
            self._special_ids = frozenset(tokenizer.all_special_ids)
        self.is_byte_level = self._backend is not None and isinstance(self._backend.decoder, ByteLevel)
        self.token_bytes = lru_cache(maxsize=65536)(self.compute_token_bytes)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`. Special tokens written in the text are recognised. Takes about 1 µs a token."""
        if self._backend is not None:
            return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        with self._lock:
            return list(self.hf.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: list[int]) -> str:
        """Text of `token_ids`, special tokens included."""
        if self._backend is not None:
            return self._backend.decode(token_ids, skip_special_tokens=False)
        with self._lock:
            return str(self.hf.decode(token_ids, clean_up_tokenization_spaces=False))

    def find_added_tokens(self, contents: tuple[str, ...]) -> frozenset[int]:
        """Ids of the added tokens whose text is one of `contents`."""
        return frozenset(i for i, token in self._added.items() if str(token.content) in contents)

    def find_token(self, content: str) -> int | None:
        """The id of the token that the vocabulary spells so."""
        if self._backend is not None:
            return self._backend.token_to_id(content)
        with self._lock:
            token_id = self.hf.convert_tokens_to_ids(content)
            known = isinstance(token_id, int) and self.hf.convert_ids_to_tokens(token_id) == content
        return token_id if known else None

    @cached_property
    def drops_first_space(self) -> bool:
        """Whether a text loses the space that its first token begins with, as SentencePiece has it."""
        token_ids = self.encode("a a", add_special_tokens=False)
        return any(self.token_bytes(i).startswith(b" ") and not self.decode([i]).startswith(" ") for i in token_ids)

    def is_hidden(self, token_id: int) -> bool:
        """Whether decoding with skip_special_tokens leaves this token out."""
        return token_id in self._special_ids or self.token_string(token_id) is None

    def token_string(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token; None for an id it does not have (padding of the embedding)."""
        if self._backend is not None:
            return self._backend.id_to_token(token_id)
        with self._lock:
            if token_id >= len(self.hf):
                return None
            return str(self.hf.convert_ids_to_tokens(token_id))

    def compute_token_bytes(self, token_id: int) -> bytes:
        """Exact UTF-8 bytes of one token in the middle of a text, a leading space included. See `token_bytes`."""
        string = self.token_string(token_id)
        if string is None:
            return b""
        if self.is_byte_level:
            return byte_level_bytes(string)
        if token_id in self._added:
            return string.encode()
        if match := _BYTE_TOKEN.fullmatch(string):
            return bytes([int(match[1], 16)])
        # Decoders treat the first token of a text differently (they drop its space), so look at the second.
        once, twice = self.decode([token_id]), self.decode([token_id, token_id])
        return twice[len(once) :].encode()
