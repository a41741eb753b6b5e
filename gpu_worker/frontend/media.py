"""Prompts with pictures and recordings: the model's own processor makes its inputs, and says what stands for each.

Each has one token in what a template writes and as many as the model wants in the prompt. The processor is asked for
both without the text around them, which goes the way of every other text, in pieces that hold no control token of
the client's: with all pictures together, as some models cut them up by their sizes, and with one recording at a
time, as some processors take one for each text. Knows no engine and no request.
"""

import logging
import re
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gpu_worker.engine.media import Media, MediaPrompt, MediaSpan
from gpu_worker.frontend.errors import RequestRejected, invalid
from gpu_worker.frontend.pictures import MediaRef, decode_pictures
from gpu_worker.frontend.recordings import RecordingLimit, Samples, decode_recordings, find_limit
from gpu_worker.frontend.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

# Of all requests that wait or run, counted as the model's inputs: a file of a few bytes can become a hundred megabytes.
MAX_LIVE_BYTES = 2 * 1024**3
# Made from the tokens, which are not the prompt's: made again when the prompt is known, or not needed.
_PER_TOKEN = ("mm_token_type_ids", "token_type_ids")
_NOUNS = {"image": "picture", "audio": "recording"}
_NOT_INPUTS = ("input_ids", "attention_mask", "text_replacement_offsets")
_PROCESSOR_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, ImportError,
)  # fmt: skip


class _Processed(NamedTuple):
    """What a processor makes of pictures: arguments of the forward pass, and the text that stands for each."""

    inputs: dict[str, np.ndarray]
    replacements: list[str]


class _Decoded(NamedTuple):
    """What messages show, each kind in its order."""

    pictures: list[Image.Image]
    recordings: list[Samples]


class MediaReader:
    """The processor of one model. Thread-safe: a lock lets it do one prompt at a time, as it is not promised to be."""

    def __init__(self, processor: Any, tokenizer: TextTokenizer) -> None:
        """Tries it on small pictures and short recordings. Raises ValueError when it cannot be used this way."""
        self._processor = processor
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[Media] = weakref.WeakSet()
        # what a template writes for an "image" and an "audio"
        self.tokens: dict[str, str] = {
            kind: token for kind in _NOUNS if (token := getattr(processor, f"{kind}_token", None))
        }
        if not self.tokens:
            raise ValueError("its processor has no token for pictures or recordings")
        self._limit: RecordingLimit | None = None
        self.sample = self._find_sample()

    def _find_sample(self) -> MediaPrompt:
        """What to try the model with, of what its processor can be used for. Raises ValueError."""
        while True:
            try:
                return self._try_out()
            except (*_PROCESSOR_ERRORS, RequestRejected) as error:
                if len(self.tokens) == 1:
                    raise ValueError(f"its processor cannot be used: {error}") from error
                logger.warning("the model is served without recordings: %s", error)
                del self.tokens["audio"]

    def _try_out(self) -> MediaPrompt:
        kinds = self.tokens.keys()
        self._token_ids = frozenset(i for kind in kinds for i in getattr(self._processor, f"{kind}_token_ids"))
        self._limit = find_limit(self._processor) if "audio" in kinds else None
        return self._make_sample()

    def read(self, pieces: Sequence[str], refs: Sequence[MediaRef], media: dict[str, bytes]) -> tuple[list[int], Media]:
        """Token ids of a rendered prompt and its pictures. Raises RequestRejected. Blocking."""
        if self._find_kinds(pieces) != [ref.kind for ref in refs]:
            shown = "every picture and recording" if "audio" in self.tokens else "every picture"
            raise invalid(f"The model's chat template does not show {shown} of these messages.", "messages")
        with self._lock:
            num_bytes = sum(known.num_bytes for known in self._live)
        if num_bytes >= MAX_LIVE_BYTES:
            raise RequestRejected("overloaded", "Too many pictures are being looked at. Please try again later.")
        token_ids, read = self._read(pieces, self._decode(refs, media), refs)
        with self._lock:
            self._live.add(read)
        return token_ids, read

    def find_prefix(self, text: str) -> list[int]:
        """The tokens that the model's processor puts before a rendered prompt that does not begin with them itself."""
        hf = self._tokenizer.hf
        special = self._tokenizer.encode("", add_special_tokens=True)
        return special if special == [hf.bos_token_id] and not text.startswith(hf.bos_token) else []

    def _decode(self, refs: Sequence[MediaRef], media: dict[str, bytes]) -> _Decoded:
        pictures = decode_pictures([ref for ref in refs if ref.kind == "image"], media)
        heard = [ref for ref in refs if ref.kind == "audio"]
        return _Decoded(pictures, decode_recordings(heard, media, self._limit) if self._limit is not None else [])

    def _find_kinds(self, pieces: Sequence[str]) -> list[str]:
        """What the tokens in a rendered prompt stand for, in order."""
        kinds = {token: kind for kind, token in self.tokens.items()}
        return [kinds[token] for piece in pieces for token in self._split(piece)[1::2]]

    def _split(self, piece: str) -> list[str]:
        """Text, token, text and so on."""
        return re.split(f"({'|'.join(map(re.escape, self.tokens.values()))})", piece)

    def _read(self, pieces: Sequence[str], decoded: _Decoded, refs: Sequence[MediaRef]) -> tuple[list[int], Media]:
        processed = self._process_for(decoded, refs)
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
        for index, text in enumerate(self._split(piece)):
            yield next(expanded) if index % 2 else text

    def _find_spans(
        self, token_ids: list[int], replacements: list[str], refs: Sequence[MediaRef]
    ) -> tuple[MediaSpan, ...]:
        positions = [index for index, token_id in enumerate(token_ids) if token_id in self._token_ids]
        spans = []
        first = 0
        for replacement, ref in zip(replacements, refs, strict=True):
            tokens = self._tokenizer.encode(replacement, add_special_tokens=False)
            last = first + sum(token_id in self._token_ids for token_id in tokens) - 1
            if last < first or last >= len(positions):
                raise invalid(f"The model's processor gives this {_NOUNS[ref.kind]} no tokens.", ref.param)
            spans.append(MediaSpan(positions[first], positions[last] + 1, ref.digest))
            first = last + 1
        if first != len(positions):
            raise invalid("The messages hold tokens that stand for a picture or a recording that is none.", "messages")
        return tuple(spans)

    def _process_for(self, decoded: _Decoded, refs: Sequence[MediaRef]) -> _Processed:
        """Raises RequestRejected naming the picture or recording that the processor does not take."""
        shown = [ref for ref in refs if ref.kind == "image"]
        heard = [ref for ref in refs if ref.kind == "audio"]
        parts = [self._process_pictures(decoded.pictures, shown)] if shown else []
        parts += [
            self._try(_NOUNS["audio"], ref.param, "audio", [samples])
            for samples, ref in zip(decoded.recordings, heard, strict=True)
        ]
        # of equal names only recordings have several parts, each a row or more
        inputs = {
            name: np.concatenate([part.inputs[name] for part in parts if name in part.inputs])
            for name in dict.fromkeys(name for part in parts for name in part.inputs)
        }
        texts = {
            kind: (text for part in chosen for text in part.replacements)
            for kind, chosen in (("image", parts[:1] if shown else []), ("audio", parts[1:] if shown else parts))
        }
        return _Processed(inputs, [next(texts[ref.kind]) for ref in refs])

    def _process_pictures(self, pictures: list[Image.Image], refs: Sequence[MediaRef]) -> _Processed:
        try:
            return self._process("image", pictures)
        except _PROCESSOR_ERRORS:
            for picture, ref in zip(pictures, refs, strict=True):
                self._try(_NOUNS["image"], ref.param, "image", [picture])
            logger.info("the processor refused the pictures", exc_info=True)
            raise invalid("The model's processor cannot take these pictures.", "messages") from None

    def _try(self, noun: str, param: str, kind: str, items: list[Any]) -> _Processed:
        try:
            return self._process(kind, items)
        except _PROCESSOR_ERRORS as error:
            logger.info("the processor refused a %s", noun, exc_info=True)
            raise invalid(f"The model's processor cannot take this {noun}.", param) from error

    def _process(self, kind: str, items: list[Any]) -> _Processed:
        given: dict[str, Any] = {"images": items}
        if kind == "audio" and self._limit is not None:
            given = {"audio": items, "sampling_rate": self._limit.sampling_rate}
        with self._lock:
            result = self._processor(
                text=[self.tokens[kind] * len(items)],
                return_tensors="pt" if kind == "audio" else "np",  # some take no other for recordings
                return_text_replacement_offsets=True,
                **given,
            )
        replacements = [replaced["replacement"] for replaced in result["text_replacement_offsets"][0]]
        if len(replacements) != len(items):
            raise ValueError("the processor does not say what stands for each of them")
        inputs = {name: np.asarray(value) for name, value in result.items() if name not in _NOT_INPUTS}
        return _Processed(inputs, replacements)

    def _make_sample(self) -> MediaPrompt:
        """A short prompt with two of each kind, unequal in shape or length, to try the model with."""
        rng = np.random.default_rng(0)
        refs: list[MediaRef] = []
        decoded = _Decoded([], [])
        if "image" in self.tokens:
            sizes = ((56, 64, 3), (72, 60, 3))
            decoded.pictures.extend(Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes)
            refs += [MediaRef("first", ""), MediaRef("second", "")]
        if self._limit is not None:
            lengths = (self._limit.sampling_rate // 2, self._limit.sampling_rate * 3 // 4)
            decoded.recordings.extend(rng.standard_normal(length).astype(np.float32) * 0.1 for length in lengths)
            refs += [MediaRef("third", "", "audio"), MediaRef("fourth", "", "audio")]
        tokens = [self.tokens[ref.kind] for ref in refs[::2]]
        text = " ".join(f"Here is {token} and then {token} as well." for token in tokens)
        return MediaPrompt(*self._read([text], decoded, refs))
