"""Chooses the next token of every row from its logits. It knows no model and no scheduler.

Every row is chosen by its own parameters alone; rows are computed together only where an operation works row by
row, and rows are grouped by their own properties, so neighbours cannot change a result. The order is the one of
transformers' and vLLM's: penalties and biases, what a grammar allows, temperature, top-k, top-p (of what top-k left),
min-p.

The random number of a token is a pure function of (seed, choice index, position in the answer): the same alone, in
any batch, after a preemption, on another replica. Shape suffixes: R rows, V vocabulary, C candidates.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from gpu_worker.engine.grammar import GrammarMasks
from gpu_worker.engine.penalties import TokenPenalties
from gpu_worker.engine.request import Request, TokenLogprobs
from gpu_worker.kernels.native import find_maxima
from gpu_worker.protocol import Sampling

# Rows with filters look at this many best tokens first, and at all only if those are not enough.
_NUM_CANDIDATES = 256
# Vocabularies are searched and summed by chunks of so many tokens.
_CHUNK = 32
# At and below this temperature the best token has all the weight, and a division could overflow: greedy.
_GREEDY_TEMPERATURE = 1e-5


class SampledToken(NamedTuple):
    """A chosen token, with log-probabilities when the request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


def draw_uniform(seed: int, choice_index: int, position: int) -> float:
    """The random number in [0, 1) of one token: 53 bits of a BLAKE2b hash of the counters."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, choice_index, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Sampler:
    """Keeps the token counts that penalties need between the steps of a request."""

    def __init__(self, *, one_by_one: bool = False) -> None:
        """`one_by_one`: rows that are drawn never share an operation, so that not even rounding depends on others."""
        self._one_by_one = one_by_one
        self._penalties: dict[str, TokenPenalties] = {}
        self._masks = GrammarMasks()

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._penalties.pop(request.id, None)

    @torch.inference_mode()
    def sample(self, logits_RV: torch.Tensor, requests: Sequence[Request]) -> list[SampledToken | None]:
        """One token for each row; None for a row whose logits are not numbers. May overwrite the logits."""
        if logits_RV.device.type == "mps":
            logits_RV = logits_RV.cpu()  # running sums need float64, which Apple's devices lack
        # The maximum is NaN if any logit is: one pass finds greedy tokens and broken rows.
        best_R, argmax_R = find_maxima(logits_RV)
        is_finite = torch.isfinite(best_R).tolist()
        token_ids: list[int] = argmax_R.tolist()
        rows = [row for row, request in enumerate(requests) if is_finite[row] and not _is_plain_greedy(request)]
        if rows or any(request.sampling.top_logprobs is not None for request in requests):
            logits_RV = logits_RV.float()
        # Log-probabilities are of the model's own distribution: taken before anything is adjusted.
        logprobs = {
            row: torch.log_softmax(logits_RV[row], dim=-1)
            for row, request in enumerate(requests)
            if request.sampling.top_logprobs is not None and is_finite[row]
        }
        for row in rows:
            self._adjust(logits_RV[row], requests[row])
        grammars = [(row, grammar) for row in rows if (grammar := requests[row].grammar) is not None]
        if grammars:
            self._masks.apply(logits_RV, grammars)
        for together in [[row] for row in rows] if self._one_by_one else [rows]:
            for row, token_id in _choose(logits_RV, requests, together):
                token_ids[row] = token_id
        return [
            SampledToken(token_id, _read_logprobs(logprobs.get(row), token_id, request)) if is_finite[row] else None
            for row, (token_id, request) in enumerate(zip(token_ids, requests, strict=True))
        ]

    def _adjust(self, logits_V: torch.Tensor, request: Request) -> None:
        """Apply everything that changes single logits, in place."""
        sampling = request.sampling
        if _has_penalties(sampling):
            penalties = self._penalties.get(request.id)
            if penalties is None:
                penalties = self._penalties[request.id] = TokenPenalties(request)
            penalties.apply(logits_V, request)
        if sampling.logit_bias:
            ids = torch.tensor(list(sampling.logit_bias), device=logits_V.device)
            logits_V[ids] += torch.tensor(list(sampling.logit_bias.values()), device=logits_V.device)
        if len(request.output_token_ids) < sampling.min_tokens:
            ends = [token for token in request.eos_token_ids.union(sampling.stop_token_ids) if token < len(logits_V)]
            logits_V[torch.tensor(ends, dtype=torch.long, device=logits_V.device)] = float("-inf")


def _has_penalties(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


def _is_plain_greedy(request: Request) -> bool:
    """Whether the token is the argmax of the logits as they are."""
    sampling = request.sampling
    is_masked = len(request.output_token_ids) < sampling.min_tokens
    return sampling.temperature <= _GREEDY_TEMPERATURE and not (
        _has_penalties(sampling) or sampling.logit_bias or is_masked or request.grammar is not None
    )


def _choose(logits_RV: torch.Tensor, requests: Sequence[Request], rows: list[int]) -> Iterator[tuple[int, int]]:
    """(row, token) of the given rows of adjusted logits, each by the row's own temperature and filters."""
    groups: dict[_Group, list[int]] = {}
    for row in rows:
        groups.setdefault(_find_group(requests[row].sampling, logits_RV.shape[-1]), []).append(row)
    for group, members in groups.items():
        group_RV = logits_RV if len(members) == len(logits_RV) else logits_RV[members]
        sampling = [requests[row].sampling for row in members]
        uniforms = [_draw_for(requests[row]) for row in members]
        uniform_R1 = torch.tensor(uniforms, dtype=torch.float64, device=logits_RV.device)[:, None]
        if group.is_greedy:
            chosen_R = group_RV.argmax(dim=-1)
        elif group.num_candidates:
            chosen_R = _sample_filtered(group_RV, uniform_R1, sampling, group)
        else:
            temperature_R1 = _column([s.temperature for s in sampling], group_RV)
            chosen_R = _invert_cdf(_weigh(group_RV, group_RV.amax(dim=-1, keepdim=True), temperature_R1), uniform_R1)
        yield from zip(members, chosen_R.tolist(), strict=True)


class _Group(NamedTuple):
    """Rows that are computed by the same operations: a function of each row alone."""

    is_greedy: bool
    num_candidates: int  # best tokens to look at first; 0: the row has no filter
    is_top_k: bool  # whether the candidates hold all that the filters could leave


def _find_group(sampling: Sampling, vocab_size: int) -> _Group:
    if sampling.temperature <= _GREEDY_TEMPERATURE:
        return _Group(is_greedy=True, num_candidates=0, is_top_k=False)
    if sampling.top_k > 0:
        num_candidates = min(1 << (sampling.top_k - 1).bit_length(), vocab_size)
        return _Group(is_greedy=False, num_candidates=num_candidates, is_top_k=True)
    if sampling.top_p < 1.0 or sampling.min_p > 0.0:
        return _Group(is_greedy=False, num_candidates=min(_NUM_CANDIDATES, vocab_size), is_top_k=False)
    return _Group(is_greedy=False, num_candidates=0, is_top_k=False)


def _sample_filtered(
    logits_RV: torch.Tensor, uniform_R1: torch.Tensor, sampling: list[Sampling], group: _Group
) -> torch.Tensor:
    """Tokens [R] drawn from the distributions that temperature, top-k, top-p and min-p leave."""
    vocab_size = logits_RV.shape[-1]
    temperature_R1 = _column([s.temperature for s in sampling], logits_RV)
    best_RC, ids_RC = find_best(logits_RV, group.num_candidates)
    weights_RC = _weigh(best_RC, best_RC[:, :1], temperature_R1)
    # What top-p is a share of: all that top-k left, or else the whole vocabulary.
    if group.is_top_k:
        top_k_R1 = _column([s.top_k for s in sampling], logits_RV)
        weights_RC *= torch.arange(group.num_candidates, device=logits_RV.device) < top_k_R1
        total_R1 = weights_RC.sum(dim=-1, keepdim=True)
    else:
        total_R1 = _weigh(logits_RV, best_RC[:, :1], temperature_R1).sum(dim=-1, keepdim=True)
    before_RC = weights_RC.cumsum(dim=-1) - weights_RC
    top_p_R1 = _column([s.top_p for s in sampling], logits_RV)
    min_p_R1 = _column([s.min_p for s in sampling], logits_RV)
    kept_RC = (before_RC < top_p_R1 * total_R1) & (weights_RC >= min_p_R1)  # the best weight is 1
    kept_RC[:, 0] = True
    chosen_R = ids_RC.gather(-1, _invert_cdf(weights_RC * kept_RC, uniform_R1)[:, None])[:, 0]
    if not group.is_top_k and group.num_candidates < vocab_size:
        # A row that keeps its last candidate may have lost others below it: it looks at the whole vocabulary.
        whole = group._replace(num_candidates=vocab_size)
        for row in kept_RC[:, -1].nonzero()[:, 0].tolist():
            one = slice(row, row + 1)
            chosen_R[one] = _sample_filtered(logits_RV[one], uniform_R1[one], sampling[one], whole)
    return chosen_R


def _weigh(logits_RC: torch.Tensor, best_R1: torch.Tensor, temperature_R1: torch.Tensor) -> torch.Tensor:
    """Probabilities up to a factor: the best logit of the row weighs 1."""
    return (logits_RC - best_R1).div_(temperature_R1).exp_()


def find_best(logits_RV: torch.Tensor, num_best: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best logits of every row and their token ids [R, num_best], best first.

    Of the chunks of a large vocabulary, those with the highest maxima hold the best tokens, so only as many
    chunks as tokens are wanted have to be searched.
    """
    num_rows, vocab_size = logits_RV.shape
    num_chunks = vocab_size // _CHUNK
    if num_chunks < 2 * num_best:
        best = logits_RV.topk(num_best, dim=-1)
        return best.values, best.indices
    chunks_RKC = logits_RV[:, : num_chunks * _CHUNK].unflatten(-1, (num_chunks, _CHUNK))
    chunk_RK = chunks_RKC.amax(dim=-1).topk(num_best, dim=-1, sorted=False).indices
    ids_RC = (chunk_RK[:, :, None] * _CHUNK + torch.arange(_CHUNK, device=logits_RV.device)).flatten(1)
    rest = torch.arange(num_chunks * _CHUNK, vocab_size, device=logits_RV.device)
    ids_RC = torch.cat([ids_RC, rest.expand(num_rows, -1)], dim=-1)
    best = logits_RV.gather(-1, ids_RC).topk(num_best, dim=-1)
    return best.values, ids_RC.gather(-1, best.indices)


def _invert_cdf(weights_RC: torch.Tensor, uniform_R1: torch.Tensor) -> torch.Tensor:
    """Index [R] at which the running sum of the weights passes u times their total.

    Summed by chunks first, so that only the chunk it falls into is summed up one by one.
    """
    if padding := -weights_RC.shape[-1] % _CHUNK:
        weights_RC = torch.nn.functional.pad(weights_RC, (0, padding))
    weights_RKC = weights_RC.unflatten(-1, (-1, _CHUNK))
    totals_RK = weights_RKC.sum(dim=-1).double()
    target_R1 = uniform_R1 * totals_RK.sum(dim=-1, keepdim=True)
    chunk_R1, before_R1 = _find_passing(totals_RK, target_R1)
    chunk_RC = weights_RKC.gather(1, chunk_R1[:, :, None].expand(-1, -1, _CHUNK))[:, 0].double()
    index_R1, _ = _find_passing(chunk_RC, target_R1 - before_R1)
    return (chunk_R1 * _CHUNK + index_R1)[:, 0]


def _find_passing(weights_RC: torch.Tensor, target_R1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first index whose running sum exceeds the target, and the sum before it, both [R, 1].

    Rounding may put the target at or past the total: then the last index that has any weight is meant.
    """
    cumulative_RC = weights_RC.cumsum(dim=-1)
    last_R1 = weights_RC.shape[-1] - 1 - (weights_RC > 0).flip(-1).int().argmax(dim=-1, keepdim=True)
    index_R1 = torch.minimum(torch.searchsorted(cumulative_RC, target_R1, right=True), last_R1)
    return index_R1, (cumulative_RC - weights_RC).gather(-1, index_R1)


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _draw_for(request: Request) -> float:
    return draw_uniform(request.sampling.seed, request.choice_index, len(request.output_token_ids))


def _read_logprobs(logprobs_V: torch.Tensor | None, token_id: int, request: Request) -> TokenLogprobs | None:
    if logprobs_V is None:
        return None
    num_top = min(request.sampling.top_logprobs or 0, len(logprobs_V))
    top = logprobs_V.topk(num_top)
    return TokenLogprobs(float(logprobs_V[token_id]), top.indices.tolist(), top.values.tolist())
