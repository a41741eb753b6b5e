"""The paged engine: schedule, forward, sample, one step at a time. It knows no thread and no text."""

import time

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.batch import build_batch
from gpu_worker.engine.lifecycle import NOT_A_NUMBER, RequestLifecycle
from gpu_worker.engine.model_runner import ModelRunner
from gpu_worker.engine.pace import PrefillPace
from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.engine.scheduler import Chunk, Scheduler


class PagedEngine(RequestLifecycle):
    """Continuous batching over a paged KV cache. Implements `Engine`; the engine thread owns it."""

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, *, max_model_len: int) -> None:
        cache = runner.cache
        if max_model_len > cache.num_blocks * cache.block_size:
            raise ValueError("the pool of blocks is smaller than one request of max_model_len tokens")
        super().__init__(max_model_len, scheduler.waiting)
        self._runner = runner
        self._scheduler = scheduler
        self._pace = PrefillPace()
        self._num_steps = 0

    def step(self) -> list[TokenOutput]:
        """Schedule, forward, sample: at most one token for each running request."""
        chunks = self._scheduler.schedule(self._pace.num_tokens)
        if chunks:
            started_s = time.monotonic()
            for request, _ in chunks:
                request.first_scheduled_s = request.first_scheduled_s or started_s
            batch = build_batch(chunks, self._runner.cache.block_size, self._runner.device)
            logits_RV = self._runner.forward(batch)
            self._scheduler.complete(chunks)
            sampled = [chunk.request for chunk in batch.sampled]
            tokens = self._sampler.sample(logits_RV, sampled) if sampled else []
            self._num_steps += 1
            self._note_time(chunks, time.monotonic() - started_s)
            for request, token in zip(sampled, tokens, strict=True):
                if token is None:
                    self._fail_broken(request)
                else:
                    self._append(request, token)
        return self._take_outputs()

    def stats(self) -> EngineStats:
        """Load at this moment."""
        blocks = self._scheduler.blocks
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=len(self._waiting),
            free_blocks=blocks.num_free_blocks,
            num_blocks=blocks.num_blocks,
            num_steps=self._num_steps,
        )

    def reset(self, error: str) -> list[TokenOutput]:
        """Fail every request with this message and forget the prefix cache: its content may be half written."""
        touched = [block for request in self._requests.values() for block in request.block_ids]
        outputs = self._fail_all(error)
        self._scheduler.blocks.forget_cached()
        self._runner.cache.zero_blocks(touched)
        return outputs

    def check_integrity(self) -> None:
        """Raise IntegrityError if any invariant of scheduler and blocks is broken. For tests and idle moments."""
        self._scheduler.check_integrity()

    def _fail_broken(self, request: Request) -> None:
        """Its blocks may hold NaN, which would spread to whoever gets them next: nothing cached is kept."""
        touched = list(request.block_ids)
        self._finish(request)
        self._scheduler.blocks.forget_cached()
        self._runner.cache.zero_blocks(self._scheduler.blocks.select_free(touched))
        self._outputs.append(TokenOutput(request, error=NOT_A_NUMBER))

    def _release(self, request: Request) -> None:
        self._scheduler.remove(request)

    def _note_time(self, chunks: list[Chunk], elapsed_s: float) -> None:
        """Every request is charged the part of the step that its tokens were of the batch."""
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        for request, num_own in chunks:
            request.device_s += elapsed_s / num_tokens * num_own
        num_decodes = sum(chunk.num_tokens == 1 for chunk in chunks)
        self._pace.learn(num_decodes=num_decodes, num_prompt_tokens=num_tokens - num_decodes, elapsed_s=elapsed_s)
