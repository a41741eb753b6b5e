"""The fallback engine: any decoder that `generate` can run, one ordinary cache and one forward pass per request.

It shares waiting order, sampler and finish rules with the paged engine, so answers differ in speed only. A step is
one forward pass for every running request; a request's first is its whole prompt, with its pictures.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.lifecycle import ADAPTER_FAILED, MEDIA_FAILED, NOT_A_NUMBER, RequestLifecycle
from gpu_worker.engine.lora import adapted, find_whole
from gpu_worker.engine.media_runner import MODEL_ERRORS, find_rope_index, to_tensors
from gpu_worker.engine.prompt_scores import score_whole
from gpu_worker.engine.request import Request, RequestStatus, TokenOutput
from gpu_worker.engine.waiting import WaitingQueue

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    request: Request
    input_ids: torch.Tensor  # [1, L]: all tokens so far
    model_kwargs: dict[str, Any]  # what the model's own generation code carries from step to step


class FallbackEngine(RequestLifecycle):
    """Implements `Engine`; the engine thread owns it. "Blocks" are the places of running requests."""

    def __init__(self, model: Any, *, max_model_len: int, max_num_seqs: int) -> None:
        super().__init__(max_model_len, WaitingQueue())
        self._model = model
        self._max_num_seqs = max_num_seqs
        # Such a model remembers positions of the prompt it saw last, which may be another request's: they are given.
        self._gives_positions = find_rope_index(model) is not None
        self._running: dict[str, _Running] = {}
        self._num_steps = 0

    def step(self) -> list[TokenOutput]:
        """One token for each running request."""
        while len(self._running) < self._max_num_seqs and (request := self._waiting.peek()) is not None:
            self._admit(request)
        for running in list(self._running.values()):
            self._advance(running)
        self._num_steps += 1
        return self._take_outputs()

    def stats(self) -> EngineStats:
        """Load at this moment."""
        return EngineStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            free_blocks=self._max_num_seqs - len(self._running),
            num_blocks=self._max_num_seqs,
            num_steps=self._num_steps,
        )

    def reset(self, error: str) -> list[TokenOutput]:
        """Fail every request with this message."""
        return self._fail_all(error)

    def _admit(self, request: Request) -> None:
        self._waiting.remove(request)
        self._waiting.charge(request, request.num_tokens)
        request.status = RequestStatus.RUNNING
        request.first_scheduled_s = time.monotonic()
        input_ids = torch.tensor([request.get_token_ids(0, request.num_tokens)], device=self._model.device)
        self._running[request.id] = _Running(request, input_ids, {})

    def _advance(self, running: _Running) -> None:
        request = running.request
        started_s = time.monotonic()
        try:
            logits = self._forward(running)
        except MODEL_ERRORS:
            if request.media is None and request.adapter is None:
                raise
            logger.exception("the model could not take the pictures or the adapter of request %s", request.id)
            self._finish(request)
            error = MEDIA_FAILED if request.media is not None else ADAPTER_FAILED
            self._outputs.append(TokenOutput(request, error=error))
            return
        outputs = list(score_whole(request, logits))
        self._outputs += [output for output in outputs if output is not None]
        token = self._sampler.sample(logits[-1:], [request])[0]
        request.device_s += time.monotonic() - started_s
        request.num_computed_tokens = request.num_tokens
        if token is not None and request.max_tokens == 0 and None not in outputs:
            self._finish_unanswered(request)
            return
        if token is None or None in outputs:
            self._finish(request)
            self._outputs.append(TokenOutput(request, error=NOT_A_NUMBER))
            return
        running.input_ids = torch.cat([running.input_ids, running.input_ids.new_tensor([[token.token_id]])], dim=-1)
        self._append(request, token)

    @torch.inference_mode()
    def _forward(self, running: _Running) -> torch.Tensor:
        """Logits [T, V] of the tokens that are computed now: all at first, then one."""
        request = running.request
        if request.num_computed_tokens > 0:
            return self._pass(running, running.input_ids, num_new=1)
        if request.media is None or not request.output_token_ids:
            return self._pass(running, running.input_ids, num_new=None)
        # Resumed: a token of its answer may be the one that stands for pictures, and must not meet them.
        num_resumed = len(request.output_token_ids)
        self._pass(running, running.input_ids[:, :-num_resumed], num_new=None, num_next=num_resumed)
        return self._pass(running, running.input_ids, num_new=num_resumed)

    def _pass(
        self, running: _Running, input_ids: torch.Tensor, *, num_new: int | None, num_next: int = 1
    ) -> torch.Tensor:
        """The last `num_new` tokens (None: all, a first pass) by the calls that `generate` itself makes."""
        is_first = num_new is None
        kwargs = self._start(running.request, input_ids) if is_first else running.model_kwargs
        inputs = self._model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=num_new, is_first_iteration=is_first, **kwargs
        )
        with adapted(self._model, find_whole(running.request.adapter)):
            output = self._model(**inputs, return_dict=True)
        running.model_kwargs = self._model._update_model_kwargs_for_generation(output, kwargs, num_new_tokens=num_next)
        logits: torch.Tensor = output.logits[0]
        return logits

    def _start(self, request: Request, input_ids: torch.Tensor) -> dict[str, Any]:
        """What `generate` begins with."""
        kwargs: dict[str, Any] = {"use_cache": True, "attention_mask": torch.ones_like(input_ids)}
        if request.media is not None:
            kwargs |= to_tensors(request.media, self._model)
        if self._gives_positions:
            kwargs["position_ids"] = self._model._prepare_position_ids_for_generation(input_ids, kwargs)
        return kwargs

    def _release(self, request: Request) -> None:
        if request.status is RequestStatus.RUNNING:
            del self._running[request.id]
        else:
            self._waiting.remove(request)
