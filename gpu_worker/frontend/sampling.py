"""Checks the numbers of a request. The web process has done so already: this is the worker's own wall."""

import math

from gpu_worker.frontend.errors import RequestRejected, invalid
from gpu_worker.protocol import Generate, Sampling

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 64

# field, lowest, highest
_RANGES = (
    ("temperature", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
    ("top_k", 0, 2**31),
    ("min_p", 0.0, 1.0),
    ("presence_penalty", -100.0, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("repetition_penalty", 1e-3, 100.0),
    ("seed", 0, 2**63 - 1),
    ("max_tokens", 0, 2**31),
    ("min_tokens", 0, 2**31),
    ("top_logprobs", 0, MAX_TOP_LOGPROBS),
)


def check_sampling(request: Generate, vocab_size: int) -> None:
    """Raises RequestRejected naming the first field that no engine could follow."""
    sampling = request.sampling
    for name, lowest, highest in _RANGES:
        value = getattr(sampling, name)
        # NaN is in no range
        if value is not None and not lowest <= value <= highest:
            raise _out_of_range(name, value, f"between {lowest} and {highest}")
    if not 1 <= request.n <= MAX_CHOICES:
        raise _out_of_range("n", request.n, f"between 1 and {MAX_CHOICES}")
    if not (math.isfinite(request.weight) and request.weight > 0):
        raise _out_of_range("weight", request.weight, "positive")
    if request.kind == "chat" and sampling.max_tokens == 0:
        raise _out_of_range("max_tokens", 0, "at least 1")
    _check_stops(sampling)
    check_token_ids(sampling.stop_token_ids, vocab_size, "stop_token_ids")
    check_token_ids(tuple(sampling.logit_bias or ()), vocab_size, "logit_bias")
    if not all(math.isfinite(bias) for bias in (sampling.logit_bias or {}).values()):
        raise invalid("Invalid value for 'logit_bias': every bias must be a finite number.", "logit_bias")
    if request.echo and sampling.top_logprobs is not None and request.suffix:
        message = "'logprobs' of an echoed prompt cannot be combined with 'suffix'."
        raise RequestRejected("unsupported", message, "logprobs")


def check_token_ids(token_ids: tuple[int, ...] | list[int], vocab_size: int, param: str) -> None:
    """Raises RequestRejected unless every id is in the model's vocabulary."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise invalid(
                f"Invalid value for '{param}': token id {token_id} is not in the vocabulary of {vocab_size} tokens.",
                param,
            )


def _check_stops(sampling: Sampling) -> None:
    if len(sampling.stop) > MAX_STOP_STRINGS:
        raise invalid(f"Invalid value for 'stop': at most {MAX_STOP_STRINGS} stop strings are possible.", "stop")
    if not all(sampling.stop):
        raise invalid("Invalid value for 'stop': a stop string must not be empty.", "stop")


def _out_of_range(name: str, value: float, expected: str) -> RequestRejected:
    return invalid(f"Invalid value for '{name}': {value} is not allowed, it must be {expected}.", name)
