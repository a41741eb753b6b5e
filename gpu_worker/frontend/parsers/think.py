"""Reasoning between <think> and </think>, or tags of that kind: Qwen 3, QwQ, DeepSeek R1, GLM, SmolLM 3, Magistral."""

from gpu_worker.frontend.parsers.base import ReasoningSplit
from gpu_worker.frontend.stop import count_partial_match


class ThinkParser:
    """Reasoning is recognised at the very start of an answer only: later, <think> is text like any other.

    Blanks at the edges of the two parts are dropped, as templates drop them when the answer comes back.
    """

    name = "think"
    opening = "<think>"
    closing = "</think>"
    enclosure = (opening, closing)
    excluded: tuple[str, ...] = ()
    answer_opening = ""
    markers: tuple[str, ...] = enclosure

    def __init__(self, prompt_text: str, continued: str = "") -> None:
        """Some templates end the prompt with an open <think>; `continued` is the part of the answer that the
        client gave itself (continue_final_message) and may have left open too."""
        is_left_open = continued.rfind(self.opening) > continued.rfind(self.closing)
        self.is_open = prompt_text.rstrip().endswith(self.opening.rstrip()) or is_left_open
        self._is_decided = self.is_open or bool(continued)
        self._at_start = self.is_open or not continued  # of the current part: its leading blanks are dropped
        self._held = ""

    @classmethod
    def reads(cls, template: str) -> bool:
        """Whether a chat template speaks this format."""
        return cls.closing in template

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
        if beginning.startswith(self.opening):
            self.is_open = self._is_decided = True
            self._held = beginning[len(self.opening) :]
            return self._read_reasoning()
        if self.opening.startswith(beginning):
            return ReasoningSplit("", "")
        self._is_decided, self._at_start = True, False
        content, self._held = self._held, ""
        return ReasoningSplit("", content)

    def _read_reasoning(self) -> ReasoningSplit:
        reasoning, close, rest = self._held.partition(self.closing)
        if close:
            reasoning = self._trim_start(reasoning).rstrip()
            self.is_open, self._at_start, self._held = False, True, ""
            return ReasoningSplit(reasoning, self._trim_start(rest))
        visible = self._held[: len(self._held) - count_partial_match(self._held, self.closing)].rstrip()
        self._held = self._held[len(visible) :]
        return ReasoningSplit(self._trim_start(visible), "")

    def _trim_start(self, text: str) -> str:
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        return text


class MistralThinkParser(ThinkParser):
    """Magistral and later."""

    name = "mistral"
    opening = "[THINK]"
    closing = "[/THINK]"
    enclosure = (opening, closing)
    markers = enclosure


class GemmaThinkParser(ThinkParser):
    """Gemma 4."""

    name = "gemma"
    opening = "<|channel>thought\n"
    closing = "<channel|>"
    enclosure = (opening, closing)
    markers = ("<|channel>", closing)


class GraniteThinkParser(ThinkParser):
    """Granite 3.2 and 3.3 before <think>: in words."""

    name = "granite"
    opening = "Here is my thought process:"
    closing = "Here is my response:"
    enclosure = (opening, closing)
    markers = ()
