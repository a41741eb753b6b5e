"""Fill-in-the-middle prompts: what stands before and after a gap, in the order in which a family was taught it.

Which family a model is of, the control tokens of its tokenizer say. Knows nothing of requests.
https://arxiv.org/abs/2207.14255
"""

from typing import NamedTuple

from gpu_worker.frontend.tokenizer import TextTokenizer

_MARK = "\u263a"  # a text behind it gets no space of its own, as SentencePiece models were taught to read suffixes


class _Family(NamedTuple):
    """The control tokens. With no `middle` the prefix comes last and the answer goes on with it."""

    prefix: str
    suffix: str
    middle: str | None
    ends: tuple[str, ...] = ()  # with these the model says that the gap is filled, beside its end tokens


_FAMILIES = (
    # Qwen2.5-Coder, CodeGemma
    _Family(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    # StarCoder, StarCoder2, Granite Code
    _Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<|endoftext|>", "<file_sep>")),
    # DeepSeek-Coder, DeepSeek-V3
    _Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
    # CodeLlama
    _Family("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
    # Codestral
    _Family("[PREFIX]", "[SUFFIX]", None),
)


class FillIn:
    """The control tokens of one model. Thread-safe."""

    def __init__(self, tokenizer: TextTokenizer, vocab_size: int) -> None:
        """Tokens that the model has no embedding for do not count."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._ids: list[int] = []  # of prefix and suffix, and of middle where the family has one
        self.end_token_ids: frozenset[int] = frozenset()
        for prefix, suffix, middle, ends in _FAMILIES:
            tokens = (prefix, suffix) if middle is None else (prefix, suffix, middle)
            if len(found := self._find(tokens)) == len(tokens):
                self._ids, self.end_token_ids = found, frozenset(self._find(ends))
                break

    @property
    def is_supported(self) -> bool:
        """Whether the model was taught to fill gaps, as far as its tokenizer says."""
        return bool(self._ids)

    def encode(self, prefix: str | list[int], suffix: str) -> list[int]:
        """The whole prompt. Token ids of a prefix are taken as they are. Only where `is_supported`."""
        before = list(prefix) if isinstance(prefix, list) else self._encode(prefix)
        after = self._encode_suffix(suffix)
        prefix_id, suffix_id, *middle = self._ids
        if not middle:
            return [*self._find_starts(), suffix_id, *after, prefix_id, *before]
        return [*self._find_starts(), prefix_id, *before, suffix_id, *after, *middle]

    def _find(self, tokens: tuple[str, ...]) -> list[int]:
        found = map(self._tokenizer.find_token, tokens)
        return [token_id for token_id in found if token_id is not None and token_id < self._vocab_size]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False) if text else []

    def _encode_suffix(self, suffix: str) -> list[int]:
        """Without the space that SentencePiece puts before the first word of a text."""
        if not self._tokenizer.drops_first_space:
            return self._encode(suffix)
        mark = self._encode(_MARK)
        marked = self._encode(_MARK + suffix)
        return marked[len(mark) :] if marked[: len(mark)] == mark else self._encode(suffix)

    def _find_starts(self) -> list[int]:
        """What the tokenizer writes before every text: mostly nothing, or the token that begins a text."""
        plain = self._encode("a")
        whole = self._tokenizer.encode("a", add_special_tokens=True)
        return whole[: whole.index(plain[0])]
