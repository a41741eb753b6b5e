"""The form an answer must have, as the engine sees it: which tokens may come next. It knows no schema and no text.

A state is a function of the answer's tokens alone, so it survives preemption and can be had again from the tokens after
a failover. The masks of a batch are computed side by side by llguidance's own threads, without the interpreter lock.
Shape suffixes: R rows of the logits, G rows with a grammar, V vocabulary, W 32-bit words.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLExecutor, LLMatcher

if TYPE_CHECKING:
    import torch

_MAX_THREADS = 8


class GrammarState:
    """One answer's place in its grammar. One thread at a time."""

    def __init__(self, matcher: LLMatcher, mask_size: int, param: str) -> None:
        """`mask_size`: how many tokens the matcher's masks cover; `param`: the field that asks for the grammar."""
        self.matcher = matcher
        self.mask_size = mask_size
        self.param = param

    def copy(self) -> "GrammarState":
        """The same place, to go on from independently."""
        return GrammarState(self.matcher.deep_copy(), self.mask_size, self.param)

    def accept(self, token_id: int) -> bool:
        """Read the next token. False when it cannot follow, which is final."""
        return bool(self.matcher.consume_token(token_id))

    @property
    def has_failed(self) -> bool:
        """Whether no token can follow, or to find those that can has become too complex."""
        return bool(self.matcher.is_error())

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing can be added to it."""
        return bool(self.matcher.is_stopped() and not self.matcher.is_error())


class GrammarMasks:
    """Takes the tokens that a grammar does not allow out of a batch's logits. The engine thread's own."""

    def __init__(self) -> None:
        self._executor: LLExecutor | None = None

    def apply(self, logits_RV: "torch.Tensor", grammars: Sequence[tuple[int, GrammarState]]) -> None:
        """Set what may not come next to minus infinity, in place, in the rows named and in no other.

        A state that fails here says so afterwards: what is sampled for it then has no meaning.
        """
        forbidden_GV = self._find_forbidden([state for _, state in grammars], logits_RV.shape[-1])
        forbidden_GV = forbidden_GV.to(logits_RV.device)
        if len(grammars) == len(logits_RV):
            logits_RV.masked_fill_(forbidden_GV, float("-inf"))
            return
        for position, (row, _) in enumerate(grammars):
            logits_RV[row].masked_fill_(forbidden_GV[position], float("-inf"))

    def _find_forbidden(self, states: list[GrammarState], vocab_size: int) -> "torch.Tensor":
        """[G, V], True where a token may not come next."""
        import torch  # not above: the frontend, which is there before torch, imports this module

        if self._executor is None:  # only a batch with grammars needs threads for them
            self._executor = LLExecutor(min(os.cpu_count() or 1, _MAX_THREADS))
        num_words = -(-states[0].mask_size // 32)  # all grammars are of one model
        allowed_GW = np.zeros((len(states), num_words), dtype=np.int32)
        jobs = [(state.matcher, position) for position, state in enumerate(states)]
        self._executor.unsafe_compute_mask_ptr(jobs, allowed_GW.ctypes.data, 4 * num_words, len(states))
        bits_GV = np.unpackbits(~allowed_GW.view(np.uint8), axis=-1, bitorder="little")
        forbidden_GV = torch.from_numpy(bits_GV.view(np.bool_)[:, :vocab_size])
        return torch.nn.functional.pad(forbidden_GV, (0, vocab_size - forbidden_GV.shape[-1]), value=True)
