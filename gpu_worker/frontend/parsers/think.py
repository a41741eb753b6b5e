"""Reasoning between <think> and </think>: Qwen 3, QwQ, DeepSeek R1, SmolLM 3, GLM and many more."""

from gpu_worker.frontend.parsers.base import ReasoningSplit
from gpu_worker.frontend.stop import count_partial_match

_OPEN = "<think>"
_CLOSE = "</think>"


class ThinkParser:
    """Reasoning is recognised at the very start of an answer only: later, <think> is text like any other.

    Blanks at the edges of the two parts are dropped, as templates drop them when the answer comes back.
    """

    markers = (_OPEN, _CLOSE)
    enclosure = (_OPEN, _CLOSE)

    def __init__(self, prompt_text: str, continued: str = "") -> None:
        """Some templates end the prompt with an open <think>; `continued` is the part of the answer that the
        client gave itself (continue_final_message) and may have left open too."""
        self.is_open = prompt_text.rstrip().endswith(_OPEN) or continued.rfind(_OPEN) > continued.rfind(_CLOSE)
        self._is_decided = self.is_open or bool(continued)
        self._at_start = self.is_open or not continued  # of the current part: its leading blanks are dropped
        self._held = ""

    @staticmethod
    def reads(template: str) -> bool:
        """Whether a chat template speaks this format."""
        return _CLOSE in template

    def push(self, text: str) -> ReasoningSplit:
        if self._is_decided and not self.is_open:
            return ReasoningSplit("", self._trim_start(text))
        self._held += text
        if not self._is_decided:
            return self._decide()
        return self._read_reasoning()

    def flush(self) -> ReasoningSplit:
        held, self._held = self._held, ""
        if self.is_open:
            return ReasoningSplit(self._trim_start(held).rstrip(), "")
        return ReasoningSplit("", held)

    def _decide(self) -> ReasoningSplit:
        beginning = self._held.lstrip()
        if beginning.startswith(_OPEN):
            self.is_open = self._is_decided = True
            self._held = beginning[len(_OPEN) :]
            return self._read_reasoning()
        if _OPEN.startswith(beginning):
            return ReasoningSplit("", "")
        self._is_decided, self._at_start = True, False
        content, self._held = self._held, ""
        return ReasoningSplit("", content)

    def _read_reasoning(self) -> ReasoningSplit:
        reasoning, close, rest = self._held.partition(_CLOSE)
        if close:
            reasoning = self._trim_start(reasoning).rstrip()
            self.is_open, self._at_start, self._held = False, True, ""
            return ReasoningSplit(reasoning, self._trim_start(rest))
        visible = self._held[: len(self._held) - count_partial_match(self._held, _CLOSE)].rstrip()
        self._held = self._held[len(visible) :]
        return ReasoningSplit(self._trim_start(visible), "")

    def _trim_start(self, text: str) -> str:
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        return text
