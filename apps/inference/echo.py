"""The echo of prompts: what of it a client has had, since every attempt on another replica begins it anew."""

import msgspec

from gpu_worker.protocol import Delta


class EchoFilter:
    """Of one request and all its choices."""

    def __init__(self, num_choices: int) -> None:
        self._has_text = [False] * num_choices
        self._num_told = [0] * num_choices  # tokens whose log-probabilities were passed on
        self._num_seen = [0] * num_choices  # and those that the attempt under way has sent

    def begin_attempt(self) -> None:
        """A replica begins from the beginning."""
        self._num_seen = [0] * len(self._num_seen)

    def take(self, delta: Delta) -> Delta | None:
        """What is new in it, if anything is."""
        index, logprobs = delta.index, delta.logprobs or []
        num_known = min(max(self._num_told[index] - self._num_seen[index], 0), len(logprobs))
        self._num_seen[index] += len(logprobs)
        self._num_told[index] = max(self._num_told[index], self._num_seen[index])
        text = "" if self._has_text[index] else delta.text
        self._has_text[index] |= bool(delta.text)
        if not text and num_known == len(logprobs):
            return None
        return msgspec.structs.replace(delta, text=text, logprobs=logprobs[num_known:] or None)
