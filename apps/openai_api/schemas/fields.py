"""The fields that both generating endpoints share, with their ranges, and how a body is decoded.

Knows msgspec and the OpenAI reference; nothing of models or engines.
"""

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from apps.core.errors import InvalidRequest

T = TypeVar("T")

MAX_COUNT = 2**31 - 1  # of whatever is counted or numbered: the worker and its engine count in 32 bits
MAX_STOP_STRINGS = 16  # OpenAI's limit is 4; agent frameworks send more

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
NonNegative = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
TokenIds = list[NonNegative]
TextsOrTokens = str | list[str | NonNegative | TokenIds]  # one or several; read by `read_texts`
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
StopStrings = Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries beside the answer. Obfuscation padding is accepted and not made."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    resumable: bool | None = None  # chat completions alone


class SamplingFields(Struct, frozen=True, kw_only=True):
    """How tokens are chosen, by OpenAI's, vLLM's and transformers' names. None: not given."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None  # 0: the likeliest token alone
    top_k: Annotated[int, Meta(ge=-1, le=MAX_COUNT)] | None = None  # 0 and -1: no limit
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Count | None = None
    min_tokens: NonNegative | None = None
    stop: StopString | StopStrings | None = None
    stop_token_ids: Annotated[list[NonNegative], Meta(max_length=128)] | None = None
    ignore_eos: bool | None = None

    def to_sampling(self) -> dict[str, Any]:
        """Only what was given, in the names and types of `gpu_worker.protocol.Sampling`. Raises InvalidRequest."""
        given = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        if self.top_k is not None:
            given["top_k"] = max(self.top_k, 0)
        if self.seed is not None:
            given["seed"] = self.seed % 2**63
        if self.logit_bias:
            given["logit_bias"] = _read_logit_bias(self.logit_bias)
        if self.stop:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.stop_token_ids:
            given["stop_token_ids"] = tuple(self.stop_token_ids)
        return given


_PLAIN = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
)


def read_texts(given: str | list[Any], param: str) -> list[str | list[int]]:
    """One item for each text or list of token ids. Raises InvalidRequest where they are mixed, or there are none."""
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if len(kinds) != 1 or [] in given:
        raise InvalidRequest(
            f"'{param}' must be a text, a list of texts, a list of token ids, or a list of such lists.", param=param
        )
    return [given] if kinds == {int} else given


def check_token_limits(sampling: dict[str, Any]) -> None:
    """Raises InvalidRequest when the answer would have to be longer than it may be."""
    if sampling.get("min_tokens", 0) > sampling.get("max_tokens", 2**63):
        raise InvalidRequest("'min_tokens' is greater than 'max_tokens'.", param="min_tokens")


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a request body. Raises InvalidRequest with the path of the field that is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise describe_validation_error(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None


# "Expected `int`, got `str` - at `$.messages[0].role`", also "… - at `key` in `$.logit_bias`"
_LOCATED = re.compile(r"(?s)(?P<what>.*?) - at (?:`key` in )?`\$\.?(?P<path>.*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")


def describe_validation_error(error: msgspec.ValidationError, prefix: str = "") -> InvalidRequest:
    """msgspec's message as a public error whose `param` is the field's path, such as messages[0].role."""
    what, path = str(error), ""
    if located := _LOCATED.fullmatch(what):
        what, path = located["what"], located["path"].replace("[...]", "")  # "[...]": some value of an object
    if missing := _MISSING.fullmatch(what):
        path = f"{path}.{missing['field']}" if path else missing["field"]
        what = "the field is required"
    param = prefix + path
    if not param:
        return InvalidRequest(f"The body must be a JSON object: {what}.")
    return InvalidRequest(f"Invalid value for '{param}': {what}.", param=param)


_TOKEN_ID = re.compile(r"[0-9]{1,10}")


def _read_logit_bias(given: dict[str, float]) -> dict[int, float]:
    if any(not _TOKEN_ID.fullmatch(key) for key in given):
        raise InvalidRequest("The keys of 'logit_bias' must be token ids.", param="logit_bias")
    return {int(key): float(value) for key, value in given.items()}
