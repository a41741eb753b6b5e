"""The forms of POST /v1/audio/transcriptions and translations: checked, and turned into a TranscriptionRequest.

https://platform.openai.com/docs/api-reference/audio
"""

import math
import re
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, get_args

from django.conf import settings

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, PayloadTooLarge, UnsupportedParameter
from apps.core.ids import new_transcription_id
from apps.inference.requests import TranscriptionRequest
from apps.openai_api.multipart import Form
from apps.openai_api.parameters import BOOKKEEPING
from apps.openai_api.schemas.chat import read_model
from gpu_worker.protocol import Transcribe, TranscriptionTask

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
_TIMED: tuple[ResponseFormat, ...] = ("srt", "verbose_json", "vtt")

TRANSLATION_HONOURED = frozenset({"file", "model", "prompt", "response_format", "seed", "temperature"})
HONOURED = TRANSLATION_HONOURED | {"language", "stream", "timestamp_granularities"}
# field -> the values that ask for what happens anyway; an empty one is "not given"
NEUTRAL: dict[str, tuple[str, ...]] = {
    "chunking_strategy": (),
    "frequency_penalty": ("0", "0.0"),
    "hotwords": (),
    "include": (),
    "keywords": (),
    "known_speaker_names": (),
    "known_speaker_references": (),
    "languages": (),
    "length_penalty": ("1", "1.0"),
    "max_completion_tokens": (),
    "min_p": ("0", "0.0"),
    "presence_penalty": ("0", "0.0"),
    "repetition_penalty": ("1", "1.0"),
    "stream_continuous_usage_stats": ("false",),
    "stream_include_usage": ("true",),
    "to_language": (),
    "top_k": ("0", "-1"),
    "top_p": ("1", "1.0"),
    "vad_filter": ("false",),
}
_LISTS = frozenset({"timestamp_granularities"})
_SWITCHES = {"true": True, "1": True, "false": False, "0": False}
_SEED = re.compile(r"-?[0-9]{1,19}")


class TranscriptionCall(NamedTuple):
    """A valid request and how its answer is to be written."""

    request: TranscriptionRequest
    response_format: ResponseFormat
    shows_segments: bool


def parse_transcription(form: Form, caller: Caller, task: TranscriptionTask) -> TranscriptionCall:
    """Raises InvalidRequest, UnsupportedParameter or PayloadTooLarge with `param`. Pure."""
    fields = _read_fields(form, HONOURED if task == "transcribe" else TRANSLATION_HONOURED)
    response_format = _read_format(fields)
    granularities = _read_granularities(fields, response_format)
    stream = _read_switch(fields, "stream")
    if stream and response_format in _TIMED:
        raise UnsupportedParameter("A stream is sent as 'json' or 'text' only.", param="response_format")
    request_id = new_transcription_id()
    message = Transcribe(
        id=request_id,
        audio=_read_file(form),
        task=task,
        language=_get_one(fields, "language").strip() or None,
        prompt=_get_one(fields, "prompt"),
        temperature=_read_temperature(fields),
        seed=_read_seed(fields, request_id),
        with_segments=response_format in _TIMED,
        with_words="word" in granularities,
    )
    request = TranscriptionRequest(
        id=request_id,
        caller=caller,
        model=read_model(_get_one(fields, "model") or None),
        endpoint="audio.transcriptions" if task == "transcribe" else "audio.translations",
        message=message,
        stream=stream,
    )
    return TranscriptionCall(request, response_format, "segment" in granularities)


def _read_fields(form: Form, honoured: frozenset[str]) -> dict[str, list[str]]:
    """The honoured fields, those with brackets under their plain names."""
    fields: dict[str, list[str]] = {}
    for given, values in form.fields.items():
        name = given.removesuffix("[]")
        if name in honoured:
            fields.setdefault(name, []).extend(values)
            if len(fields[name]) > 1 and name not in _LISTS:
                raise InvalidRequest(f"'{name}' was sent twice.", param=name)
        elif name in NEUTRAL:
            if any(value and value.lower() not in NEUTRAL[name] for value in values):
                raise UnsupportedParameter(
                    f"'{name}' is not supported here: it would change the answer. Leave it out.", param=name
                )
        elif name not in BOOKKEEPING:
            raise InvalidRequest(f"Unknown parameter: '{given}'.", param=given, code="unknown_parameter")
    for name in form.files:
        if name != "file":
            raise InvalidRequest(f"'{name}' must not be a file.", param=name)
    if "file" in fields:
        raise InvalidRequest("'file' must be a file: its part of the form needs a file name.", param="file")
    return fields


def _get_one(fields: dict[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[0]


def _read_file(form: Form) -> bytes:
    data = form.files.get("file")
    if data is None:
        raise InvalidRequest("'file' is required: the recording.", param="file")
    if not data:
        raise InvalidRequest("The audio file is empty.", param="file")
    if len(data) > settings.MAX_AUDIO_BYTES:
        raise PayloadTooLarge(f"The audio file is larger than {settings.MAX_AUDIO_BYTES} bytes.", param="file")
    return data


def _read_format(fields: dict[str, list[str]]) -> ResponseFormat:
    given: Any = _get_one(fields, "response_format") or "json"
    if given not in get_args(ResponseFormat):
        names = ", ".join(get_args(ResponseFormat))
        raise InvalidRequest(f"'response_format' must be one of {names}.", param="response_format")
    known: ResponseFormat = given
    return known


def _read_granularities(fields: dict[str, list[str]], response_format: ResponseFormat) -> set[str]:
    given = {value for value in fields.get("timestamp_granularities", ()) if value}
    if given - {"segment", "word"}:
        raise InvalidRequest(
            '\'timestamp_granularities\' can hold "segment" and "word".', param="timestamp_granularities"
        )
    if given and response_format != "verbose_json":
        raise InvalidRequest(
            "'timestamp_granularities' needs 'response_format' to be \"verbose_json\".", param="timestamp_granularities"
        )
    return given or {"segment"}


def _read_temperature(fields: dict[str, list[str]]) -> float:
    try:
        temperature = float(_get_one(fields, "temperature") or 0.0)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature <= 1:
        raise InvalidRequest("'temperature' must be a number from 0 to 1.", param="temperature")
    return temperature


def _read_seed(fields: dict[str, list[str]], request_id: str) -> int:
    """Where none is given it follows from the id, which is random."""
    given = _get_one(fields, "seed")
    if not given:
        return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest()) >> 1
    if not _SEED.fullmatch(given):
        raise InvalidRequest("'seed' must be a whole number of up to 64 bits.", param="seed")
    return int(given) % 2**63


def _read_switch(fields: dict[str, list[str]], name: str) -> bool:
    given = _get_one(fields, name).lower()
    if given and given not in _SWITCHES:
        raise InvalidRequest(f"'{name}' must be true or false.", param=name)
    return _SWITCHES.get(given, False)
