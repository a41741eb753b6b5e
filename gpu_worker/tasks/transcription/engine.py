"""The engine of speech models: one window of one recording a step, by turns. It knows no text and no thread."""

import time

from gpu_worker.engine.base import EngineStats
from gpu_worker.engine.lifecycle import RequestLifecycle
from gpu_worker.engine.request import Request, RequestStatus, TokenOutput
from gpu_worker.engine.waiting import WaitingQueue
from gpu_worker.tasks.transcription.request import SpeechRequest, WindowOutput
from gpu_worker.tasks.transcription.whisper import WhisperRunner

NO_LIMIT = 2**62  # an answer may be as long as its recording


class TranscriptionEngine(RequestLifecycle):
    """Implements `Engine`; the engine thread owns it. "Blocks" are the places of requests that have begun.

    The user who was served the fewest windows goes next, and each user's recordings take turns.
    """

    def __init__(self, runner: WhisperRunner, *, max_num_seqs: int) -> None:
        super().__init__(NO_LIMIT, WaitingQueue())
        self._runner = runner
        self._max_num_seqs = max_num_seqs
        self._num_steps = 0

    def step(self) -> list[TokenOutput]:
        """One window of the recording whose turn it is."""
        request = self._waiting.peek()
        if isinstance(request, SpeechRequest):
            self._waiting.remove(request)
            request.status = RequestStatus.RUNNING
            self._advance(request)
            self._num_steps += 1
        return self._take_outputs()

    def queue_position(self, request_id: str) -> int | None:
        """About how many go before its first window."""
        request = self._requests.get(request_id)
        return None if request is None or request.first_scheduled_s else super().queue_position(request_id)

    def stats(self) -> EngineStats:
        """Load at this moment."""
        num_running = sum(request.first_scheduled_s is not None for request in self._requests.values())
        return EngineStats(
            num_running=num_running,
            num_waiting=len(self._requests) - num_running,
            free_blocks=max(self._max_num_seqs - num_running, 0),
            num_blocks=self._max_num_seqs,
            num_steps=self._num_steps,
        )

    def reset(self, error: str) -> list[TokenOutput]:
        """Fail every request with this message."""
        return self._fail_all(error)

    def _advance(self, request: SpeechRequest) -> None:
        started_s = time.monotonic()
        request.first_scheduled_s = request.first_scheduled_s or started_s
        if request.features_1MF is None:
            self._runner.extract_features(request)
        window = self._runner.hear(request)
        now_s = time.monotonic()
        request.first_token_s = request.first_token_s or now_s
        request.device_s += now_s - started_s
        request.position_frames = window.position_frames
        request.output_token_ids += window.token_ids
        self._waiting.charge(request, 1)
        if self._runner.is_done(request):
            request.finish_reason = "stop"
            self._finish(request)
        else:
            request.status = RequestStatus.WAITING
            self._waiting.push_back(request)
        self._outputs.append(WindowOutput(request, finish_reason=request.finish_reason, window=window))

    def _release(self, request: Request) -> None:
        if request.status is RequestStatus.WAITING:
            self._waiting.remove(request)
