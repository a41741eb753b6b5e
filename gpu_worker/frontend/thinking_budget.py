"""Reasoning that may take only so many tokens: when they are used up, its end is all that may follow.

As every grammar state, one with a budget is a function of the answer's tokens alone.
"""

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llguidance import LLMatcher

from gpu_worker.engine.grammar import GrammarState


@dataclass
class Thought:
    """Whether an answer's reasoning is open, read from the bytes of its tokens."""

    opening: bytes
    closing: bytes
    is_open: bool  # the prompt has opened it; else the answer may begin with its opening
    num_tokens: int = 0  # of the reasoning so far, its opening included
    is_over: bool = False  # for good: reasoning stands at the start of an answer only
    _text: bytes = field(default=b"", repr=False)

    def read(self, token: bytes) -> None:
        """The next token."""
        if self.is_over:
            return
        self.num_tokens += 1
        self._text += token
        if not self.is_open:
            beginning = self._text.lstrip()
            self.is_open = beginning.startswith(self.opening)
            self.is_over = not self.is_open and not self.opening.startswith(beginning)
            self._text = beginning.removeprefix(self.opening)
        if self.is_open:
            self.is_over = self.closing in self._text
            self._text = self._text[-len(self.closing) - 3 :]  # and the bytes of a character

    @property
    def can_be_ended(self) -> bool:
        """Not within a character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(self._text)
        return self.is_open and not self.is_over and not decoder.getstate()[0]


class BudgetedState(GrammarState):
    """A grammar that changes to another one, which begins with the end of the reasoning."""

    def __init__(
        self, state: GrammarState, closing: LLMatcher, thought: Thought, budget: int, find_bytes: Callable[[int], bytes]
    ) -> None:
        """`closing`: the grammar of what follows used-up reasoning; `find_bytes`: what a token writes."""
        super().__init__(state.matcher, state.mask_size, state.param)
        self._closing = closing
        self._thought = thought
        self._budget = budget
        self._find_bytes = find_bytes

    def copy(self) -> GrammarState:
        """The same place, to go on from independently."""
        return BudgetedState(
            super().copy(), self._closing.deep_copy(), replace(self._thought), self._budget, self._find_bytes
        )

    def accept(self, token_id: int) -> bool:
        """Read the next token. False when it cannot follow, which is final."""
        if not super().accept(token_id):
            return False
        thought = self._thought
        thought.read(self._find_bytes(token_id))
        if thought.num_tokens >= self._budget and thought.can_be_ended:
            thought.is_over = True
            self.matcher = self._closing
        return True
