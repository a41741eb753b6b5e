"""The body of POST /v1/completions: decoded, checked, and turned into one GenerationRequest for each prompt.

https://platform.openai.com/docs/api-reference/completions/create, with the extensions of vLLM.
"""

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.core.ids import new_completion_id
from apps.inference.requests import GenerationRequest
from apps.openai_api.parameters import COMPLETION_NEUTRAL, check_fields
from apps.openai_api.schemas.chat import read_model
from apps.openai_api.schemas.fields import (
    NonNegative,
    StreamOptions,
    TextsOrTokens,
    check_token_limits,
    decode_body,
    read_texts,
)
from apps.openai_api.schemas.generation_config import read_generation_config
from apps.openai_api.schemas.structure import StructureFields

MAX_CHOICES = 128  # prompts times n
MAX_SUFFIX_CHARS = 1_000_000
DEFAULT_MAX_TOKENS = 16  # OpenAI's, of this endpoint alone


class CompletionBody(StructureFields, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    prompt: TextsOrTokens
    model: str | None = None
    max_tokens: NonNegative | None = None  # 0: the prompt alone
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    echo: bool | None = None
    suffix: Annotated[str, Meta(max_length=MAX_SUFFIX_CHARS)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    generation_config: str | dict[str, Any] | None = None


HONOURED = frozenset(CompletionBody.__struct_fields__)
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(CompletionBody)


class CompletionCall(NamedTuple):
    """A valid request and how its answer is to be written. The requests differ in id and prompt only."""

    id: str
    requests: list[GenerationRequest]
    include_usage: bool
    n: int  # choices of each prompt that are shown: the best of those that are generated
    shows_logprobs: bool


def parse_completion(body: bytes, caller: Caller) -> CompletionCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`. Pure: which models exist is asked later."""
    raw = decode_body(_raw_decoder, body)
    completion = decode_body(_decoder, body)
    check_fields(raw, HONOURED, COMPLETION_NEUTRAL)
    prompts = read_texts(completion.prompt, "prompt")
    n, best_of = completion.n or 1, _read_best_of(completion)
    if len(prompts) * best_of > MAX_CHOICES:
        raise InvalidRequest(f"Prompts times 'n' or 'best_of' may be {MAX_CHOICES} at most.", param="prompt")
    model, sampling = read_model(completion.model), _read_sampling(completion)
    if best_of > n:
        sampling.setdefault("top_logprobs", 0)  # by which the best are found
    structure = completion.to_structure()
    call_id = new_completion_id()
    requests = [
        GenerationRequest(
            id=call_id if len(prompts) == 1 else f"{call_id}-{position}",
            caller=caller,
            model=model,
            endpoint="completions",
            kind="completion",
            prompt=prompt,
            sampling=sampling,
            n=best_of,
            stream=bool(completion.stream),
            echo=bool(completion.echo),
            suffix=completion.suffix or "",
            structure=structure,
        )
        for position, prompt in enumerate(prompts)
    ]
    options = completion.stream_options
    if options is not None and options.resumable:
        param = "stream_options.resumable"
        raise UnsupportedParameter(f"'{param}': a text completion cannot be read again.", param=param)
    return CompletionCall(
        call_id,
        requests,
        include_usage=bool(options and options.include_usage),
        n=n,
        shows_logprobs=completion.logprobs is not None,
    )


def _read_best_of(completion: CompletionBody) -> int:
    """How many choices of each prompt are generated."""
    n = completion.n or 1
    best_of = completion.best_of or n
    if best_of < n:
        raise InvalidRequest("'best_of' must not be less than 'n'.", param="best_of")
    if best_of > n and (completion.stream or completion.echo):
        with_what = "stream" if completion.stream else "echo"
        raise UnsupportedParameter(f"'best_of' cannot be combined with '{with_what}'.", param="best_of")
    return best_of


def _read_sampling(completion: CompletionBody) -> dict[str, Any]:
    sampling: dict[str, Any] = {"max_tokens": DEFAULT_MAX_TOKENS}
    if completion.generation_config:
        sampling |= read_generation_config(completion.generation_config)
    sampling |= completion.to_sampling()
    check_token_limits(sampling)
    if completion.logprobs is not None:
        if completion.echo and completion.suffix:
            message = "'logprobs' of an echoed prompt cannot be combined with 'suffix'."
            raise UnsupportedParameter(message, param="logprobs")
        sampling["top_logprobs"] = completion.logprobs
    return sampling
