"""How many tokens of long prompts a step may take while others wait for their next token. Knows times, not requests."""

# A step with a part of a long prompt may take so many times as long as one without.
_SLOWDOWN = 2.5
_SMOOTHING = 0.2  # weight of the newest step
_MIN_TOKENS = 16  # a long prompt goes on, however slow the machine
_MIN_SAMPLE_TOKENS = 16  # fewer tell nothing of what a prompt's token costs


class PrefillPace:
    """Learns from every step what decoding costs and what a prompt's token costs on top."""

    def __init__(self) -> None:
        self._decode_s: float | None = None
        self._prompt_token_s: float | None = None

    @property
    def num_tokens(self) -> int | None:
        """The most tokens of long prompts beside decodes; None before anything is known."""
        if self._decode_s is None or self._prompt_token_s is None:
            return None
        return max(_MIN_TOKENS, int((_SLOWDOWN - 1) * self._decode_s / self._prompt_token_s))

    def learn(self, *, num_decodes: int, num_prompt_tokens: int, elapsed_s: float) -> None:
        """A step took `elapsed_s` seconds."""
        if num_prompt_tokens == 0:
            self._decode_s = _smooth(self._decode_s, elapsed_s)
        elif num_prompt_tokens >= _MIN_SAMPLE_TOKENS:
            # A step of the batch's own size costs something without any token of a prompt: the decodes' part.
            base_s = self._decode_s if num_decodes and self._decode_s is not None else 0.0
            self._prompt_token_s = _smooth(
                self._prompt_token_s, max(elapsed_s - base_s, 0.1 * elapsed_s) / num_prompt_tokens
            )


def _smooth(old: float | None, new: float) -> float:
    return new if old is None else old + _SMOOTHING * (new - old)
