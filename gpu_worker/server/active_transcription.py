"""A recording between its arrival and its last event: windows in, text and segments out.

Event loop thread only.
"""

import zlib
from typing import TYPE_CHECKING, cast

from gpu_worker.engine.request import TokenOutput
from gpu_worker.protocol import (
    Delta,
    FromWorker,
    Sampling,
    Started,
    Transcribe,
    TranscriptPiece,
    TranscriptSegment,
)
from gpu_worker.server.active import ActiveRequest, Choice
from gpu_worker.tasks.transcription.request import HeardSegment, SpeechRequest, Window, WindowOutput

if TYPE_CHECKING:  # they import transformers, for which the server does not wait
    from gpu_worker.tasks.transcription.frontend import PreparedTranscription
    from gpu_worker.tasks.transcription.tokens import TranscriptTokens

_NO_LIMIT = 2**62  # a transcription is as long as its recording


class ActiveTranscription(ActiveRequest):
    """One `Transcribe`; its only choice is what is heard."""

    _tokens: "TranscriptTokens"
    _duration_s = 0.0
    _has_text = False

    def begin(self, message: Transcribe, prepared: "PreparedTranscription") -> list[FromWorker]:
        """Make the engine's request."""
        self._tokens, self._duration_s = prepared.tokens, prepared.duration_s
        self.held_bytes = prepared.samples.nbytes
        self.num_prompt_tokens = prepared.num_prompt_tokens
        request = SpeechRequest(
            id=f"{self.id}/0",
            prompt_token_ids=prepared.prompt_token_ids,
            sampling=Sampling(seed=message.seed, temperature=message.temperature),
            max_tokens=_NO_LIMIT,
            user=message.user,
            weight=message.weight,
            priority=message.priority,
            arrival_s=self.arrival_s,
            samples=prepared.samples,
            task=message.task,
            language=prepared.language,
            uses_timestamps=prepared.uses_timestamps,
            with_segments=message.with_segments,
            with_words=message.with_words,
        )
        choice = Choice(0, request, prepared.tokens.open_stream(), prepared.tokens.text)
        if message.resume is not None:
            request.position_frames = message.resume.position_frames
            choice.num_tokens = message.resume.num_tokens
            self._has_text = True
        self.choices.append(choice)
        return [Started(self.id, self.num_prompt_tokens)]

    def read(self, choice: Choice, output: TokenOutput) -> list[FromWorker]:
        """The events of one window."""
        events: list[FromWorker] = []
        if isinstance(output, WindowOutput) and output.window is not None:
            events.append(self._read_window(choice, output.window, is_last=output.finish_reason is not None))
        if output.finish_reason is not None:
            events.append(self.finish(choice, output.finish_reason))
        return events

    def _read_window(self, choice: Choice, window: Window, *, is_last: bool) -> Delta:
        request = cast(SpeechRequest, choice.request)
        choice.num_tokens += len(window.token_ids)
        heard = [token_id for segment in window.segments for token_id in segment.token_ids]
        text = "".join(
            choice.stream.advance(token_id).text for token_id in heard if not self._tokens.is_control(token_id)
        )
        if is_last:
            text += choice.stream.flush().text
        if not self._has_text:
            text = text.lstrip()
            self._has_text = bool(text)
        language = self._tokens.name_language(request.language)
        segments = [self._read_segment(segment, window, language) for segment in window.segments]
        return Delta(
            id=self.id,
            text=text,
            token_ids=window.token_ids,
            transcript=TranscriptPiece(
                position_frames=window.position_frames,
                duration_s=self._duration_s,
                language=language,
                segments=segments if request.with_segments else [],
            ),
        )

    def _read_segment(self, segment: HeardSegment, window: Window, language: str) -> TranscriptSegment:
        text = self._tokens.decode(segment.token_ids)
        times = [(self._clip(start_s), self._clip(end_s)) for start_s, end_s in segment.token_times_s]
        return TranscriptSegment(
            start_s=self._clip(segment.start_s),
            end_s=self._clip(segment.end_s),
            text=text,
            token_ids=segment.token_ids,
            seek_frames=window.seek_frames,
            avg_logprob=window.avg_logprob,
            compression_ratio=_measure_compression(text),
            no_speech_prob=window.no_speech_prob,
            words=self._tokens.split_words(segment.token_ids, times, language) if times else [],
        )

    def _clip(self, time_s: float) -> float:
        """The model may hear something in the silence that fills its last window."""
        return min(time_s, self._duration_s)


def _measure_compression(text: str) -> float:
    """How much shorter zlib makes it: text that repeats itself is most often not what was said."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
