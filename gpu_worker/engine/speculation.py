"""Guesses the next tokens of a request from its own earlier ones (prompt lookup). It knows no model and no scheduler.

An answer often repeats what was said: a quoted passage, a file with a small change, the keys of a list. Where the last
tokens stood before, what followed then is drafted now; the drafts are computed beside the token that is due, and each
is kept if it is the token that the sampler picks at its position. So a wrong guess costs rows of a step and a right
one saves a step; no guess changes a token.
"""

from typing import Literal

import numpy as np

from gpu_worker.engine.request import Request

Mode = Literal["auto", "ngram"]

# Ends shorter than this are found anywhere by chance; longer ones than that are not compared further.
_MIN_MATCH = 3
_MAX_MATCH = 8
# In "auto": with more rows than these a step is bound by arithmetic, and a row for a guess costs what it can save.
_MAX_DECODES = 2
# In "auto": drafts kept per step, smoothed. Below the least a request drafts nothing for a while, each time longer.
_START, _LEAST, _SMOOTHING = 1.0, 0.3, 0.3
_FIRST_PAUSE, _LAST_PAUSE = 16, 512


class Drafter:
    """The guesses for all requests of an engine, whose thread owns it."""

    def __init__(self, mode: Mode, num_tokens: int, max_model_len: int) -> None:
        """At most `num_tokens` guesses for a request in a step."""
        self.num_drafted = 0
        self.num_accepted = 0
        self._is_adaptive = mode == "auto"
        self._num_tokens = num_tokens
        self._max_model_len = max_model_len
        self._records: dict[str, _Record] = {}

    def propose(self, request: Request, *, num_decodes: int, most: int) -> list[int]:
        """Up to `most` tokens that may follow; none where a guess would not pay, in a step of so many decodes."""
        # The last token of an answer is never computed, so a guess may not take its place.
        num_left = min(request.max_tokens - len(request.output_token_ids), self._max_model_len - request.num_tokens)
        limit = min(self._num_tokens, most, num_left - 1)
        if limit < 1 or (self._is_adaptive and num_decodes > _MAX_DECODES):
            return []
        record = self._records.setdefault(request.id, _Record())
        if self._is_adaptive and request.num_tokens < record.resumes_at:
            return []
        return find_continuation(record.read(request), limit)

    def learn(self, request: Request, *, num_drafted: int, num_accepted: int) -> None:
        """So many guesses of a step were computed and kept."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        if (record := self._records.get(request.id)) is not None:
            record.learn(request, num_accepted)

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._records.pop(request.id, None)


class _Record:
    """The tokens of one request as an array, and how its guesses do."""

    def __init__(self) -> None:
        self.resumes_at = 0  # number of tokens from which on it drafts again
        self._tokens = np.empty(256, dtype=np.int64)
        self._num_read = 0
        self._gain = _START
        self._pause = _FIRST_PAUSE

    def read(self, request: Request) -> np.ndarray:
        """All its tokens. Only those that are new since the last call are copied."""
        num_tokens = request.num_tokens
        if num_tokens > len(self._tokens):
            self._tokens = np.concatenate([self._tokens[: self._num_read], np.empty(num_tokens, dtype=np.int64)])
        self._tokens[self._num_read : num_tokens] = request.get_token_ids(self._num_read, num_tokens)
        self._num_read = num_tokens
        return self._tokens[:num_tokens]

    def learn(self, request: Request, num_accepted: int) -> None:
        self._gain += _SMOOTHING * (num_accepted - self._gain)
        if self._gain >= _START:
            self._pause = _FIRST_PAUSE
        elif self._gain < _LEAST:
            self.resumes_at = request.num_tokens + self._pause
            self._pause = min(2 * self._pause, _LAST_PAUSE)
            self._gain = 0.5 * (_START + _LEAST)


def find_continuation(tokens: np.ndarray, limit: int) -> list[int]:
    """What followed an earlier place with the same last tokens: the longest such end, the latest of equally long ones.

    Where the tokens end before there are `limit` of them they go on in the same circle.
    """
    last = len(tokens) - 1
    # Indices of earlier tokens that equal the last one; with each round the token before must be equal too.
    ends = np.flatnonzero(tokens[:last] == tokens[last])
    for num_back in range(1, _MAX_MATCH):
        longer = ends[ends >= num_back]
        longer = longer[tokens[longer - num_back] == tokens[last - num_back]]
        if len(longer) == 0:
            if num_back < _MIN_MATCH:
                return []
            break
        ends = longer
    start = int(ends[-1]) + 1
    period = len(tokens) - start
    return [int(tokens[start + index % period]) for index in range(limit)]
