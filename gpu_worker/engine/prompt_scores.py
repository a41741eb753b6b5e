"""Log-probabilities of a prompt's own tokens, of the rows of a forward pass that predict them. It knows no schedule.

The row of token p predicts token p + 1; nothing predicts the first, whose log-probability is not a number:

    tokens   t0   t1   t2   t3        a chunk [start, end) of a prompt has the rows of
    rows      └─►  └─►  └─►  └─► answer   the tokens start + 1 ... end

Shape suffixes: S rows of scored tokens, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from gpu_worker.engine.request import MAX_SCORED_TOKENS, Request, TokenLogprobs, TokenOutput


class ScoredRows(NamedTuple):
    """Tokens [first, end) of a request's prompt that a pass predicts."""

    request: Request
    first: int
    end: int

    @property
    def num_rows(self) -> int:
        """Of logits: one each."""
        return self.end - self.first


def find_scored(request: Request, end: int) -> ScoredRows | None:
    """What the pass that computes its tokens up to `end` (not with it) tells of the prompt and was not told before."""
    if not request.wants_prompt_logprobs:
        return None
    first = max(request.num_computed_tokens + 1, request.num_scored)
    scored = ScoredRows(request, first, max(first, min(end + 1, len(request.prompt_token_ids))))
    return scored if scored.num_rows or not request.num_scored else None


@torch.inference_mode()
def score(scored: ScoredRows, logits_SV: torch.Tensor) -> TokenOutput | None:
    """What is to be said of these tokens, and of the first one before them. None where logits are not numbers."""
    request, first, end = scored
    entries = [] if request.num_scored else [TokenLogprobs(math.nan)]
    if scored.num_rows:
        logprobs_SV = torch.log_softmax(logits_SV.float(), dim=-1)
        if not torch.isfinite(logprobs_SV.amax(dim=-1)).all():
            return None
        token_ids = request.prompt_token_ids[first:end]
        own = logprobs_SV.gather(-1, torch.tensor(token_ids, device=logits_SV.device)[:, None])[:, 0]
        top = logprobs_SV.topk(min(request.prompt_logprobs or 0, logprobs_SV.shape[-1]), dim=-1)
        columns = zip(own.tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
        entries += [TokenLogprobs(*column) for column in columns]
    request.num_scored, start = end, end - len(entries)
    return TokenOutput(request, prompt_logprobs=entries, prompt_start=start)


def score_whole(request: Request, logits_TV: torch.Tensor) -> Iterator[TokenOutput | None]:
    """The same of a pass over a whole prompt at once, some rows at a time."""
    while request.wants_prompt_logprobs:
        first = max(request.num_scored, 1)
        end = min(first + MAX_SCORED_TOKENS, len(request.prompt_token_ids))
        output = score(ScoredRows(request, first, end), logits_TV[first - 1 : end - 1])
        yield output
        if output is None:
            return
