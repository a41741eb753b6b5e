"""The paged engine: schedule, forward, sample, one step at a time. It knows no thread and no text."""

import itertools
import logging
import time

import torch

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.batch import Batch, build_batch
from gpu_worker.engine.lifecycle import MEDIA_FAILED, NOT_A_NUMBER, RequestLifecycle
from gpu_worker.engine.media_runner import MODEL_ERRORS, MediaRunner
from gpu_worker.engine.model_runner import ModelRunner
from gpu_worker.engine.pace import PrefillPace
from gpu_worker.engine.prompt_scores import score
from gpu_worker.engine.request import Request, RequestStatus, TokenOutput
from gpu_worker.engine.sampler import SampledToken, Sampler
from gpu_worker.engine.scheduler import Chunk, Scheduler

logger = logging.getLogger(__name__)


class PagedEngine(RequestLifecycle):
    """Continuous batching over a paged KV cache. Implements `Engine`; the engine thread owns it."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler,
        media_runner: MediaRunner,
        *,
        max_model_len: int,
        sampler: Sampler | None = None,
    ) -> None:
        cache = runner.cache
        if max_model_len > cache.num_blocks * cache.block_size:
            raise ValueError("the pool of blocks is smaller than one request of max_model_len tokens")
        super().__init__(max_model_len, scheduler.waiting, sampler)
        self._runner = runner
        self._scheduler = scheduler
        self._pace = PrefillPace()
        self._media_runner = media_runner
        self._drafter = scheduler.drafter
        self._num_steps = 0

    def step(self) -> list[TokenOutput]:
        """Schedule, forward, sample: one token for each request that decodes, and one more for each right guess."""
        scheduled = self._scheduler.schedule(self._pace.num_tokens)
        chunks = [chunk for chunk in scheduled if self._is_placed(chunk.request)]
        if chunks:
            started_s = time.monotonic()
            for request, _ in chunks:
                request.first_scheduled_s = request.first_scheduled_s or started_s
            batch = build_batch(chunks, self._runner.cache.block_size, self._runner.device)
            logits_RV = self._forward(batch)
            if logits_RV is None:
                return self._take_outputs()
            self._scheduler.complete(chunks)
            self._num_steps += 1
            num_before = [len(chunk.request.output_token_ids) for chunk in batch.sampled]
            num_sampled = len(logits_RV) - sum(rows.num_rows for rows in batch.scored)
            self._tell_scores(batch, logits_RV[num_sampled:])
            self._sample(batch.sampled, logits_RV[:num_sampled])
            self._note_time(chunks, time.monotonic() - started_s)
            self._settle_drafts(batch.sampled, num_before)
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
            num_drafted_tokens=self._drafter.num_drafted if self._drafter is not None else 0,
            num_accepted_tokens=self._drafter.num_accepted if self._drafter is not None else 0,
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

    def _forward(self, batch: Batch) -> torch.Tensor | None:
        """Logits [R, V]; None when a prompt with pictures, alone in the batch, could not be computed and has failed."""
        request = batch.chunks[0].request
        if not request.has_pending_media:
            return self._runner.forward(batch)
        try:
            return self._media_runner.forward(batch)
        except MODEL_ERRORS:
            self._fail_media(request)
            return None

    def _tell_scores(self, batch: Batch, logits_SV: torch.Tensor) -> None:
        """What the pass says of prompts' own tokens. Who asked for no more than that has ended with the last."""
        start = 0
        for rows in batch.scored:
            output = score(rows, logits_SV[start : start + rows.num_rows])
            start += rows.num_rows
            if output is None:
                self._fail_broken(rows.request)
                continue
            self._outputs.append(output)
        for request, _ in batch.sampled:
            if request.max_tokens == 0 and request.status is RequestStatus.RUNNING:
                self._finish_unanswered(request)

    def _sample(self, sampled: list[Chunk], logits_RV: torch.Tensor) -> None:
        """The next token of each request; then of those whose guess it was the one after, and so on.

        Every token is sampled when all before it are known, so it is the one that would come without guesses.
        """
        firsts = itertools.accumulate((1 + len(request.draft_token_ids) for request, _ in sampled), initial=0)
        pending = [
            (request, row)
            for (request, _), row in zip(sampled, firsts, strict=False)
            if request.status is RequestStatus.RUNNING
        ]
        depth = 0
        while pending:
            has_all = len(pending) == len(logits_RV)
            rows_RV = logits_RV if has_all else logits_RV[[row + depth for _, row in pending]]
            tokens = self._sampler.sample(rows_RV, [request for request, _ in pending])
            pending = [
                entry for entry, token in zip(pending, tokens, strict=True) if self._take(entry[0], token, depth)
            ]
            depth += 1

    def _take(self, request: Request, token: SampledToken | None, depth: int) -> bool:
        """Give the request its token. Returns whether that is its guess number `depth` and it goes on."""
        if token is None:
            self._fail_broken(request)
            return False
        self._append(request, token)
        drafts = request.draft_token_ids
        is_right = request.status is RequestStatus.RUNNING and depth < len(drafts) and drafts[depth] == token.token_id
        if is_right:
            self._scheduler.accept(request)
        return is_right

    def _settle_drafts(self, sampled: list[Chunk], num_before: list[int]) -> None:
        """Forget the guesses of the step; one token would have come without them."""
        for (request, _), num in zip(sampled, num_before, strict=True):
            if self._drafter is not None and request.draft_token_ids:
                num_taken = len(request.output_token_ids) - num
                self._drafter.learn(
                    request, num_drafted=len(request.draft_token_ids), num_accepted=max(num_taken - 1, 0)
                )
                self._scheduler.drop_drafts(request)

    def _is_placed(self, request: Request) -> bool:
        """Whether the positions of its tokens are known, now at the latest."""
        if request.media is None or request.position_offset is not None:
            return True
        try:
            self._media_runner.place(request)
        except MODEL_ERRORS:
            self._fail_media(request)
            return False
        return True

    def _fail_media(self, request: Request) -> None:
        """What a client sends in a picture ends its own request only. Nothing of it is in the prefix cache yet."""
        logger.exception("the model could not take the pictures of request %s", request.id)
        self._finish(request)
        self._outputs.append(TokenOutput(request, error=MEDIA_FAILED))

    def _fail_broken(self, request: Request) -> None:
        """Its blocks may hold NaN, which would spread to whoever gets them next: nothing cached is kept."""
        touched = list(request.block_ids)
        self._finish(request)
        self._scheduler.blocks.forget_cached()
        self._runner.cache.zero_blocks(self._scheduler.blocks.select_free(touched))
        self._outputs.append(TokenOutput(request, error=NOT_A_NUMBER))

    def _release(self, request: Request) -> None:
        self._scheduler.remove(request)
        if self._drafter is not None:
            self._drafter.forget(request)

    def _note_time(self, chunks: list[Chunk], elapsed_s: float) -> None:
        """Every request is charged the part of the step that its tokens were of the batch."""
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        for request, num_own in chunks:
            request.device_s += elapsed_s / num_tokens * num_own
        if chunks[0].request.media is not None and not chunks[0].is_decode:
            return  # a vision tower's time says nothing of other prompts
        num_decodes = sum(chunk.num_tokens for chunk in chunks if chunk.is_decode)
        self._pace.learn(num_decodes=num_decodes, num_prompt_tokens=num_tokens - num_decodes, elapsed_s=elapsed_s)
