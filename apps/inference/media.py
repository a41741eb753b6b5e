"""Pictures and recordings in messages: found, fetched or decoded, and put beside the messages for the worker.

A part `{"type": "image_url", "image_url": URL}` becomes `{"type": "image", "media": key}`, with the file under its key
in `media`; parts of type `input_audio` and `audio_url` become `{"type": "audio", …}`. Whether it is one that the model
can take is the worker's to say; here only the kind of a picture is looked at.
"""

import asyncio
import base64
import binascii
import hashlib
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.conf import settings

from apps.core.errors import InvalidRequest, PayloadTooLarge, UnsupportedParameter
from apps.core.fetch import FetchError, FetchRules, FetchTooLarge, fetch
from apps.inference.requests import AnyRequest, GenerationRequest
from gpu_worker.protocol import MAX_FRAME_BYTES

MAX_LOADS = 4  # at the same time, for one request
_RESERVED_BYTES = 8 * 1024 * 1024  # of a frame, for everything but files
# Part type -> the kind of it for the worker, and the field of it that has the URL.
_KINDS = {
    "image_url": ("image", "image_url"),
    "input_audio": ("audio", "audio_url"),
    "audio_url": ("audio", "audio_url"),
}
_SLOW_CHARS = 128 * 1024  # to decode and hash so much takes part of a millisecond: more is done in a thread

Request = TypeVar("Request", bound=AnyRequest)
_Refusal = InvalidRequest | PayloadTooLarge  # UnsupportedParameter is an InvalidRequest


class _Place(NamedTuple):
    """Where a picture or a recording stands, and by which name an error calls it."""

    message: int
    part: int
    url: str
    type: str

    @property
    def param(self) -> str:
        return f"messages[{self.message}].content[{self.part}].{self.type}"

    @property
    def noun(self) -> str:
        return _KINDS[self.type][0]

    @property
    def max_bytes(self) -> int:
        limit: int = settings.MAX_IMAGE_BYTES if self.noun == "image" else settings.MAX_AUDIO_BYTES
        return limit


class _File(NamedTuple):
    key: str
    data: bytes


async def load_media(request: Request) -> Request:
    """The same request with its messages' files. Raises InvalidRequest, UnsupportedParameter or PayloadTooLarge."""
    messages = (isinstance(request, GenerationRequest) and request.messages) or []
    places = _find_places(messages)
    if not places:
        return request
    if len(places) > settings.MAX_IMAGES:
        message = f"A request may hold {settings.MAX_IMAGES} images and recordings, this one has {len(places)}."
        raise InvalidRequest(message, param=places[settings.MAX_IMAGES].param)
    loader = _Loader()
    first_places: dict[str, _Place] = {}
    for place in places:
        first = first_places.setdefault(place.url, place)
        if first.noun != place.noun:
            raise InvalidRequest(f"'{place.param}' is also '{first.param}'.", param=place.param)
    async with asyncio.TaskGroup() as group:
        tasks = {url: group.create_task(loader.load(place)) for url, place in first_places.items()}
    files: dict[str, _File] = {}
    for place in places:
        result = tasks[place.url].result()
        if not isinstance(result, _File):
            raise result
        files[place.url] = result
    media = {file.key: file.data for file in files.values()}
    return msgspec.structs.replace(request, messages=_replace(messages, files), media=media)


class _Loader:
    """Loads the files of one request, few at a time, and no more than a frame holds."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._refusal: _Refusal | None = None
        self._turns = asyncio.Semaphore(MAX_LOADS)

    async def load(self, place: _Place) -> _File | _Refusal:
        """A refusal is returned, and ends what has not begun: so the first in order is the one that is told."""
        async with self._turns:
            if self._refusal is not None:
                return self._refusal
            try:
                file = await _load(place)
                self._num_bytes += len(file.data)
                if self._num_bytes > MAX_FRAME_BYTES - _RESERVED_BYTES:
                    raise PayloadTooLarge("The files of the request are too large together.", param=place.param)
            except (InvalidRequest, PayloadTooLarge) as error:
                self._refusal = error
                return error
            return file


def _find_places(messages: list[dict[str, Any]]) -> list[_Place]:
    return [
        _Place(i, j, part[_KINDS[part["type"]][1]], part["type"])
        for i, message in enumerate(messages)
        if isinstance(message.get("content"), list)
        for j, part in enumerate(message["content"])
        if part["type"] in _KINDS
    ]


def _replace(messages: list[dict[str, Any]], files: dict[str, _File]) -> list[dict[str, Any]]:
    def replace_part(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] not in _KINDS:
            return part
        kind, field = _KINDS[part["type"]]
        return {"type": kind, "media": files[part[field]].key}

    return [
        {**message, "content": [replace_part(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


async def _load(place: _Place) -> _File:
    is_data = place.url[:5].lower() == "data:"
    file = await (_decode(place) if is_data else _fetch(place))
    if place.noun == "image" and not is_picture(file.data):
        raise InvalidRequest(f"'{place.param}' is not a PNG, JPEG, WebP or GIF image.", param=place.param)
    return file


async def _fetch(place: _Place) -> _File:
    if not settings.FETCH_IMAGES:
        message = f"'{place.param}': files are not fetched here, send a data: URL."
        raise UnsupportedParameter(message, param=place.param)
    rules = FetchRules(
        max_bytes=place.max_bytes,
        timeout_s=settings.FETCH_TIMEOUT_S,
        hosts=frozenset(settings.FETCH_HOSTS),
        private_hosts=frozenset(settings.FETCH_PRIVATE_HOSTS),
    )
    try:
        return await asyncio.to_thread(_make_file, await fetch(place.url, rules))
    except FetchTooLarge as error:
        raise PayloadTooLarge(f"The {place.noun} '{place.param}' cannot be used. {error}", param=place.param) from error
    except FetchError as error:
        raise InvalidRequest(f"The {place.noun} '{place.param}' cannot be used. {error}", param=place.param) from error


async def _decode(place: _Place) -> _File:
    head, comma, body = place.url.partition(",")
    kind, *options = head[5:].lower().split(";")
    if not comma or not kind.startswith(f"{place.noun}/") or "base64" not in options:
        example = "image/png" if place.noun == "image" else "audio/wav"
        raise InvalidRequest(f"'{place.param}' must be a URL like data:{example};base64,…", param=place.param)
    if len(body) // 4 * 3 > place.max_bytes + 3:
        message = f"The {place.noun} '{place.param}' is larger than {place.max_bytes} bytes."
        raise PayloadTooLarge(message, param=place.param)
    try:
        if len(body) < _SLOW_CHARS:
            return _decode_base64(body)
        return await asyncio.to_thread(_decode_base64, body)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"'{place.param}' is not valid base64.", param=place.param) from None


def _decode_base64(body: str) -> _File:
    """Padding may be missing, and line breaks may be there: clients do both."""
    compact = body.strip().replace("\n", "").replace("\r", "").replace("%2B", "+").replace("%2F", "/")
    compact = compact.replace("%3D", "=").rstrip("=")
    return _make_file(base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True))


def _make_file(data: bytes) -> _File:
    return _File(hashlib.sha256(data).hexdigest(), data)


def is_picture(data: bytes) -> bool:
    """By its first bytes, whatever its URL or its server called it."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")) or (
        data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    )
