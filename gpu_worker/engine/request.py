"""One sequence on its way through the engine, and what the engine says of it after a step."""

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpu_worker.engine.grammar import GrammarState
from gpu_worker.engine.media import Media
from gpu_worker.protocol import FailureCode, FinishReason, Sampling

if TYPE_CHECKING:  # it imports torch, for which the server does not wait
    from gpu_worker.engine.lora import LoraAdapter


# Tokens of prompts whose log-probabilities one step computes: each takes a row of logits, as wide as the vocabulary.
MAX_SCORED_TOKENS = 128


class RequestStatus(enum.IntEnum):
    """Ordered: a request only moves down, except that preemption puts RUNNING back to WAITING."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


@dataclass(slots=True)
class TokenLogprobs:
    """Log-probabilities at one position, of the distribution before temperature and filters."""

    logprob: float  # of the sampled token
    top_token_ids: list[int] = field(default_factory=list)  # best first
    top_logprobs: list[float] = field(default_factory=list)


# Called in the engine thread right after a token was appended to `output_token_ids`, unless that token is
# itself an end-of-sequence or stop token. A stop string lives in the text, which the engine does not know,
# so the frontend is asked. Returns a reason to end the sequence with this token, or None to go on.
# Must be quick and must not raise.
StopCheck = Callable[["Request"], FinishReason | None]


@dataclass(slots=True, eq=False)
class Request:
    """One choice of one client request. `n` choices are n Requests; the prefix cache shares their prompt.

    `output_token_ids` may start non-empty: a resumed request continues after them, and their positions
    count for seed, penalties, min_tokens and max_tokens exactly as if this engine had sampled them.
    """

    id: str
    prompt_token_ids: list[int]
    sampling: Sampling
    max_tokens: int  # resolved: never beyond the context
    choice_index: int = 0  # part of the random number key (seed, choice_index, position)
    eos_token_ids: frozenset[int] = frozenset()  # empty when sampling.ignore_eos
    user: str = ""
    weight: float = 1.0
    priority: int = 0
    cache_salt: str = ""
    stop_check: StopCheck | None = None
    grammar: GrammarState | None = None  # has read `output_token_ids`; None: any token may follow
    output_token_ids: list[int] = field(default_factory=list)
    arrival_s: float = field(default_factory=time.monotonic)
    media: Media | None = None  # the pictures of the prompt
    adapter: "LoraAdapter | None" = None  # then `cache_salt` names it too
    prompt_logprobs: int | None = None  # of the prompt's own tokens, as `sampling.top_logprobs` of the answer's

    # Written by the engine only.
    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0  # tokens whose keys and values are in the cache
    num_cached_tokens: int = 0  # prompt tokens served by the prefix cache at first admission
    num_preemptions: int = 0
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    device_s: float = 0.0  # share of the forward passes it was part of
    finish_reason: FinishReason | None = None
    block_ids: list[int] = field(default_factory=list)
    draft_token_ids: list[int] = field(default_factory=list)  # guesses computed in the step under way
    position_offset: int | None = None  # position minus number of a token behind the pictures, once it is known
    num_scored: int = 0  # tokens of the prompt whose log-probabilities were told

    @property
    def has_pending_media(self) -> bool:
        """Whether its pictures are still to be computed: then its whole prompt is."""
        return self.media is not None and self.num_computed_tokens < self.media.end

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether some are still to be told: until then nothing of its prompt is taken from the cache."""
        return self.prompt_logprobs is not None and self.num_scored < len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens together."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    def get_token_ids(self, start: int, end: int) -> list[int]:
        """Tokens [start, end) of prompt and output taken as one sequence."""
        num_prompt = len(self.prompt_token_ids)
        if end <= num_prompt:
            return self.prompt_token_ids[start:end]
        if start >= num_prompt:
            return self.output_token_ids[start - num_prompt : end - num_prompt]
        return self.prompt_token_ids[start:] + self.output_token_ids[: end - num_prompt]

    def fail(self, error: str) -> "TokenOutput":
        """End a request that no engine has seen."""
        self.status = RequestStatus.FINISHED
        return TokenOutput(self, error=error)

    def ends_with_stop_token(self) -> bool:
        """Whether the last output token is an end-of-sequence or stop token."""
        if not self.output_token_ids:
            return False
        last = self.output_token_ids[-1]
        return last in self.eos_token_ids or last in self.sampling.stop_token_ids

    def ends_grammar(self) -> bool:
        """Whether the answer has the form it must have, and nothing can be added to it."""
        return self.grammar is not None and self.grammar.is_complete

    def is_full(self, max_model_len: int) -> bool:
        """Whether `max_tokens` or the context leaves no room for another token."""
        return len(self.output_token_ids) >= self.max_tokens or self.num_tokens >= max_model_len

    def find_finish_reason(self, max_model_len: int) -> FinishReason | None:
        """Why the sequence ends with the token just appended, if it does.

        An end-of-sequence or stop token comes first ("stop": the token counts as a completion token and its
        id is the last of `output_token_ids`), then `stop_check`, then a complete grammar ("stop"), then `max_tokens`
        or a full context ("length").
        """
        if self.ends_with_stop_token():
            return "stop"
        if self.stop_check is not None and (reason := self.stop_check(self)) is not None:
            return reason
        if self.ends_grammar():
            return "stop"
        return "length" if self.is_full(max_model_len) else None


@dataclass(slots=True)
class TokenOutput:
    """What one step did for one request: a new token, an end, or (abort, failure) an end without a token; before
    these, log-probabilities of its prompt."""

    request: Request
    token_id: int | None = None
    logprobs: TokenLogprobs | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None  # set when the engine failed this request; it has ended
    error_code: FailureCode = "internal"
    error_param: str | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None  # of the prompt's tokens from `prompt_start` on
    prompt_start: int = 0
