"""Bytes of a picture to pixels, within bounds. It knows no model and fetches nothing."""

import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from gpu_worker.frontend.errors import RequestRejected, invalid

# The kinds that OpenAI names. PIL reads many more, some of them through programs of the system.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# What a file of a few bytes can unpack to is bounded before anything of it is unpacked.
MAX_PIXELS = 50_000_000
MAX_TOTAL_PIXELS = 100_000_000  # of all pictures of a request
# What PIL's decoders raise on damaged files.
_DECODE_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, MemoryError,
)  # fmt: skip


class MediaRef(NamedTuple):
    """A picture or a recording that a message shows: which one, and where it stands in the request."""

    digest: str
    param: str
    kind: Literal["image", "audio"] = "image"


def decode_pictures(refs: Sequence[MediaRef], media: dict[str, bytes]) -> list[Image.Image]:
    """RGB pictures, turned as their cameras were held. Raises RequestRejected naming the first that is no good."""
    decoded: dict[str, Image.Image] = {}
    num_pixels = 0
    for ref in refs:
        if ref.digest not in decoded:
            if (data := media.get(ref.digest)) is None:
                raise invalid("The picture did not come with the request.", ref.param)
            picture = _open(data, ref.param)
            num_pixels += picture.width * picture.height
            if num_pixels > MAX_TOTAL_PIXELS:
                raise invalid(f"The pictures have more than {MAX_TOTAL_PIXELS:,} pixels together.", ref.param)
            decoded[ref.digest] = _decode(picture, ref.param)
    return [decoded[ref.digest] for ref in refs]


def _open(data: bytes, param: str) -> Image.Image:
    """Reads the header alone."""
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
        is_animated = bool(getattr(picture, "is_animated", False))
    except UnidentifiedImageError as error:
        raise invalid("The picture is not a PNG, JPEG, WebP or GIF file.", param) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _make_too_many_pixels(param) from error
    except _DECODE_ERRORS as error:
        raise _make_undecodable(param) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise _make_too_many_pixels(param)
    if is_animated:
        raise invalid("The picture is animated; send one frame.", param)
    return picture


def _decode(picture: Image.Image, param: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture).convert("RGB")
    except _DECODE_ERRORS as error:
        raise _make_undecodable(param) from error


def _make_too_many_pixels(param: str) -> RequestRejected:
    return invalid(f"The picture has too many pixels; {MAX_PIXELS:,} are allowed.", param)


def _make_undecodable(param: str) -> RequestRejected:
    return invalid("The picture cannot be decoded: the file is damaged.", param)
