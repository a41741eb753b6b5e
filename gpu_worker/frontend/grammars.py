"""Compiles grammars for one model's vocabulary, and keeps those that were asked for last. Knows no request.

llguidance counts its own steps and gives up at a limit, so a grammar either compiles in well under a second or is
refused; the interpreter lock is released meanwhile. Decision 10 says why this library.
"""

import re
import threading
from collections import OrderedDict
from typing import NamedTuple

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from gpu_worker.frontend.tokenizer import TextTokenizer

MAX_GRAMMAR_CHARS = 512 * 1024
_MAX_KEPT = 64
# "verbose" would put the whole grammar into every message.
_LIMITS = LLParserLimits(verbose_errors=False)
_NOTE = re.compile(r"\s*<non-verbose/>\s*")


class GrammarError(ValueError):
    """The grammar cannot be used; the message says why, for the client."""


class Vocabulary(NamedTuple):
    """What each token writes. Tokens that write nothing into the text are `hidden`."""

    tokens: list[bytes]
    hidden: list[int]
    eos_token_ids: list[int]


def build_vocabulary(
    tokenizer: TextTokenizer, vocab_size: int, eos_token_ids: frozenset[int], visible_ids: frozenset[int]
) -> Vocabulary:
    """All ids of the model, those that its tokenizer does not have included. Takes about a second for 150,000.

    A token that ends the answer is none of its text, also where parsers see it.
    """
    shown = visible_ids - eos_token_ids
    hidden = [i for i in range(vocab_size) if tokenizer.is_hidden(i) and i not in shown]
    tokens = list(map(tokenizer.compute_token_bytes, range(vocab_size)))
    return Vocabulary(tokens, hidden, sorted(token_id for token_id in eos_token_ids if token_id < vocab_size))


class GrammarCompiler:
    """Grammars in llguidance's JSON form to matchers. Thread-safe; blocking, so not for an event loop."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Takes a second for 150,000 tokens and keeps the interpreter lock: to be made before anybody is served."""
        eos_token_ids = vocabulary.eos_token_ids or None
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), eos_token=eos_token_ids)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    @property
    def mask_size(self) -> int:
        """How many tokens the masks of compiled matchers cover."""
        return int(self._tokenizer.vocab_size)

    def tokenize(self, text: str) -> list[int]:
        """Tokens that write this text, if hardly those that a tokenizer would choose: for a matcher to read."""
        return list(self._tokenizer.greedy_tokenize(text)) if text else []

    def compile(self, grammar: str) -> LLMatcher:
        """A fresh matcher that has read nothing. Raises GrammarError."""
        with self._lock:
            if (matcher := self._kept.get(grammar)) is not None:
                self._kept.move_to_end(grammar)
                return matcher.deep_copy()
        if len(grammar) > MAX_GRAMMAR_CHARS:
            raise GrammarError(f"It is too large: {len(grammar)} characters, {MAX_GRAMMAR_CHARS} are possible.")
        matcher = LLMatcher(self._tokenizer, grammar, limits=_LIMITS, log_level=0)
        if matcher.is_error():
            raise GrammarError(_NOTE.sub("", matcher.get_error()).strip())
        with self._lock:
            self._kept[grammar] = matcher
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
            return matcher.deep_copy()


class _Tokens:
    """A vocabulary in the shape that TokenizerWrapper reads."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.hidden
        self.eos_token_id = vocabulary.eos_token_ids[0] if vocabulary.eos_token_ids else None

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError("grammars never ask for a tokenization")
