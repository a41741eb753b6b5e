"""What a prompt with pictures is made of, beside its tokens. It knows no file format and no model."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class MediaSpan(NamedTuple):
    """Tokens [start, end) of the prompt stand for one picture; equal digests mean equal pictures."""

    start: int
    end: int
    digest: str


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Media:
    """The pictures of one prompt, shared by its choices. `inputs` are arguments of the model's forward pass by
    name; those that run along the tokens do so along the prompt's. Spans are in order, at least one."""

    inputs: dict[str, np.ndarray]
    spans: tuple[MediaSpan, ...]

    @property
    def end(self) -> int:
        """Where the last picture ends: what lies behind is text."""
        return self.spans[-1].end

    @property
    def num_bytes(self) -> int:
        """What it takes in memory until its last request has ended."""
        return sum(array.nbytes for array in self.inputs.values())

    def find_spans(self, start: int, end: int) -> tuple[MediaSpan, ...]:
        """The pictures of which tokens [start, end) hold a part."""
        return tuple(span for span in self.spans if span.start < end and span.end > start)


class MediaPrompt(NamedTuple):
    """A prompt to try a model with."""

    token_ids: list[int]
    media: Media
