"""Prompts with pictures: the model's own processor makes its inputs, and says which tokens stand for each picture.

A picture has one token in what a template writes and as many as the model wants in the prompt. The processor is asked
for both with the pictures alone; the text around them goes the way of every other text, in pieces that hold no
control token of the client's. Knows no engine and no request.
"""

import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gpu_worker.engine.media import Media, MediaPrompt, MediaSpan
from gpu_worker.frontend.errors import RequestRejected, invalid
from gpu_worker.frontend.pictures import PictureRef, decode_pictures
from gpu_worker.frontend.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

# Of all requests that wait or run, counted as the model's inputs: a file of a few bytes can become a hundred megabytes.
MAX_LIVE_BYTES = 2 * 1024**3
# Made from the tokens, which are not the prompt's: made again when the prompt is known, or not needed.
_PER_TOKEN = ("mm_token_type_ids", "token_type_ids")
_NOT_INPUTS = ("input_ids", "attention_mask", "text_replacement_offsets")
_PROCESSOR_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, ImportError,
)  # fmt: skip


class _Processed(NamedTuple):
    """What a processor makes of pictures: arguments of the forward pass, and the text that stands for each."""

    inputs: dict[str, np.ndarray]
    replacements: list[str]


class MediaReader:
    """The processor of one model. Thread-safe: a lock lets it do one prompt at a time, as it is not promised to be."""

    def __init__(self, processor: Any, tokenizer: TextTokenizer) -> None:
        """Tries it on small pictures. Raises ValueError when it cannot be used this way."""
        self._processor = processor
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[Media] = weakref.WeakSet()
        self.picture_token: str = getattr(processor, "image_token", None) or ""
        if not self.picture_token:
            raise ValueError("its processor has no token for pictures")
        try:
            self._token_ids = frozenset(processor.image_token_ids)
            self.sample = self._make_sample()
        except (*_PROCESSOR_ERRORS, RequestRejected) as error:
            raise ValueError(f"its processor cannot be used: {error}") from error

    def read(
        self, pieces: Sequence[str], refs: Sequence[PictureRef], media: dict[str, bytes]
    ) -> tuple[list[int], Media]:
        """Token ids of a rendered prompt and its pictures. Raises RequestRejected. Blocking."""
        if sum(piece.count(self.picture_token) for piece in pieces) != len(refs):
            raise invalid("The model's chat template does not show every picture of these messages.", "messages")
        with self._lock:
            num_bytes = sum(known.num_bytes for known in self._live)
        if num_bytes >= MAX_LIVE_BYTES:
            raise RequestRejected("overloaded", "Too many pictures are being looked at. Please try again later.")
        token_ids, read = self._read(pieces, decode_pictures(refs, media), refs)
        with self._lock:
            self._live.add(read)
        return token_ids, read

    def find_prefix(self, text: str) -> list[int]:
        """The tokens that the model's processor puts before a rendered prompt that does not begin with them itself."""
        hf = self._tokenizer.hf
        special = self._tokenizer.encode("", add_special_tokens=True)
        return special if special == [hf.bos_token_id] and not text.startswith(hf.bos_token) else []

    def _read(
        self, pieces: Sequence[str], pictures: list[Image.Image], refs: Sequence[PictureRef]
    ) -> tuple[list[int], Media]:
        processed = self._process_for(pictures, refs)
        expanded = iter(processed.replacements)
        token_ids = self.find_prefix(pieces[0])
        for piece in pieces:
            text = "".join(self._expand(piece, expanded))
            token_ids += self._tokenizer.encode(text, add_special_tokens=False)
        inputs = dict(processed.inputs)
        for name in _PER_TOKEN:
            if name in inputs:
                inputs[name] = np.array(self._processor.create_mm_token_type_ids([token_ids]))
        return token_ids, Media(inputs, self._find_spans(token_ids, processed.replacements, refs))

    def _expand(self, piece: str, expanded: Iterator[str]) -> Iterator[str]:
        first, *rest = piece.split(self.picture_token)
        yield first
        for text in rest:
            yield next(expanded)
            yield text

    def _find_spans(
        self, token_ids: list[int], replacements: list[str], refs: Sequence[PictureRef]
    ) -> tuple[MediaSpan, ...]:
        positions = [index for index, token_id in enumerate(token_ids) if token_id in self._token_ids]
        spans = []
        first = 0
        for replacement, ref in zip(replacements, refs, strict=True):
            tokens = self._tokenizer.encode(replacement, add_special_tokens=False)
            last = first + sum(token_id in self._token_ids for token_id in tokens) - 1
            if last < first or last >= len(positions):
                raise invalid("The model's processor gives this picture no tokens.", ref.param)
            spans.append(MediaSpan(positions[first], positions[last] + 1, ref.digest))
            first = last + 1
        if first != len(positions):
            raise invalid("The messages hold tokens that stand for a picture, but no picture.", "messages")
        return tuple(spans)

    def _process_for(self, pictures: list[Image.Image], refs: Sequence[PictureRef]) -> _Processed:
        """Raises RequestRejected naming the picture that the processor does not take."""
        try:
            return self._process(pictures)
        except _PROCESSOR_ERRORS as error:
            logger.info("the processor refused the pictures", exc_info=True)
            pairs = zip(pictures, refs, strict=True)
            param = next((ref.param for picture, ref in pairs if not self._takes(picture)), "messages")
            raise invalid("The model's processor cannot take this picture.", param) from error

    def _takes(self, picture: Image.Image) -> bool:
        try:
            self._process([picture])
        except _PROCESSOR_ERRORS:
            return False
        return True

    def _process(self, pictures: list[Image.Image]) -> _Processed:
        with self._lock:
            result = self._processor(
                text=[self.picture_token * len(pictures)],
                images=pictures,
                return_tensors="np",
                return_text_replacement_offsets=True,
            )
        replacements = [replaced["replacement"] for replaced in result["text_replacement_offsets"][0]]
        if len(replacements) != len(pictures):
            raise ValueError("the processor does not say what stands for each picture")
        inputs = {name: np.asarray(value) for name, value in result.items() if name not in _NOT_INPUTS}
        return _Processed(inputs, replacements)

    def _make_sample(self) -> MediaPrompt:
        """A short prompt with two pictures of different shapes, to try the model with."""
        rng = np.random.default_rng(0)
        pictures = [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((56, 64, 3), (72, 60, 3))]
        refs = [PictureRef("first", ""), PictureRef("second", "")]
        text = f"Here is {self.picture_token} and then {self.picture_token} as well."
        return MediaPrompt(*self._read([text], pictures, refs))
