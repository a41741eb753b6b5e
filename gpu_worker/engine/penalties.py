"""Repetition, presence and frequency penalties of one request, over token counts kept from step to step."""

import torch

from gpu_worker.engine.request import Request


class TokenPenalties:
    """Counts the tokens of one request. A preempted or resumed request is counted again from its lists."""

    def __init__(self, request: Request) -> None:
        self._counts: dict[int, int] = {}  # how often in the output; prompt tokens start at 0
        self._num_counted = 0  # output tokens counted so far
        if request.sampling.repetition_penalty != 1.0:
            self._counts = dict.fromkeys(request.prompt_token_ids, 0)

    def apply(self, logits_V: torch.Tensor, request: Request) -> None:
        """Change the logits in place.

        Repetition (transformers, arXiv 1909.05858): over prompt and output, divides positive and multiplies
        negative logits. Presence and frequency (OpenAI): over the output, subtracted once and per occurrence.
        """
        for token_id in request.output_token_ids[self._num_counted :]:
            self._counts[token_id] = self._counts.get(token_id, 0) + 1
        self._num_counted = len(request.output_token_ids)
        if not self._counts:
            return
        # C counted tokens; only their logits are touched.
        ids_C = torch.tensor(list(self._counts), device=logits_V.device)
        counts_C = torch.tensor(list(self._counts.values()), dtype=logits_V.dtype, device=logits_V.device)
        sampling, logits_C = request.sampling, logits_V[ids_C]
        if sampling.repetition_penalty != 1.0:
            penalty = sampling.repetition_penalty
            logits_C = torch.where(logits_C > 0, logits_C / penalty, logits_C * penalty)
        logits_C -= sampling.frequency_penalty * counts_C + sampling.presence_penalty * (counts_C > 0)
        logits_V[ids_C] = logits_C
