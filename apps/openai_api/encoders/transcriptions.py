"""Events to the wire formats of transcriptions: JSON, plain text, SubRip, WebVTT, and the events of a stream.

https://platform.openai.com/docs/api-reference/audio. Knows nothing of HTTP.
"""

import math
from typing import Any

from apps.core.http import encode_json, encode_sse
from apps.openai_api.schemas.transcriptions import ResponseFormat, TranscriptionCall
from gpu_worker.protocol import Delta, Finished, TranscriptPiece, TranscriptSegment, TranscriptWord

CONTENT_TYPES: dict[ResponseFormat, bytes] = {
    "json": b"application/json",
    "verbose_json": b"application/json",
    "text": b"text/plain; charset=utf-8",
    "srt": b"text/plain; charset=utf-8",
    "vtt": b"text/vtt; charset=utf-8",
}


class TranscriptionFold:
    """Gathers the events of one recording into one answer."""

    def __init__(self, call: TranscriptionCall) -> None:
        self._call = call
        self._texts: list[str] = []
        self._segments: list[TranscriptSegment] = []
        self._last = TranscriptPiece(0, 0.0)

    @property
    def text(self) -> str:
        """All that was heard so far."""
        return "".join(self._texts)

    def add_delta(self, delta: Delta) -> None:
        """Append a window."""
        self._texts.append(delta.text)
        if delta.transcript is not None:
            self._last = delta.transcript
            self._segments += delta.transcript.segments

    def encode(self) -> bytes:
        """The whole answer. To be called after the last event."""
        match self._call.response_format:
            case "json":
                return encode_json({"text": self.text, "usage": self._make_usage()})
            case "verbose_json":
                return encode_json(self._make_verbose())
            case "text":
                return self.text.encode() + b"\n"
            case "srt":
                return _make_cues(self._segments, numbered=True).encode()
            case "vtt":
                return b"WEBVTT\n\n" + _make_cues(self._segments, numbered=False).encode()

    def _make_usage(self) -> dict[str, Any]:
        return {"type": "duration", "seconds": math.ceil(self._last.duration_s)}

    def _make_verbose(self) -> dict[str, Any]:
        call = self._call
        translates = call.request.message.task == "translate"
        answer: dict[str, Any] = {
            "task": call.request.message.task,
            "language": "english" if translates else self._last.language,
            "duration": self._last.duration_s,
            "text": self.text,
        }
        if call.request.message.with_words:
            answer["words"] = [_make_word(word) for segment in self._segments for word in segment.words]
        if call.shows_segments:
            temperature = call.request.message.temperature
            answer["segments"] = [
                _make_segment(index, segment, temperature) for index, segment in enumerate(self._segments)
            ]
        return {**answer, "usage": self._make_usage()}


class TranscriptionStreamEncoder:
    """Turns each event into the bytes of its server-sent events; the last repeats the whole text."""

    def __init__(self, call: TranscriptionCall) -> None:
        self._fold = TranscriptionFold(call)

    def encode_delta(self, delta: Delta) -> bytes:
        """What a window adds; nothing where nobody spoke."""
        self._fold.add_delta(delta)
        if not delta.text:
            return b""
        return encode_sse(encode_json({"type": "transcript.text.delta", "delta": delta.text}))

    def encode_finish(self, finished: Finished) -> bytes:
        """The last event of a stream that went well."""
        usage = finished.usage
        counts = {
            "type": "tokens",
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return encode_sse(encode_json({"type": "transcript.text.done", "text": self._fold.text, "usage": counts}))


def _make_segment(index: int, segment: TranscriptSegment, temperature: float) -> dict[str, Any]:
    return {
        "id": index,
        "seek": segment.seek_frames,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": segment.token_ids,
        "temperature": temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _make_word(word: TranscriptWord) -> dict[str, Any]:
    return {"word": word.word, "start": word.start_s, "end": word.end_s}


def _make_cues(segments: list[TranscriptSegment], *, numbered: bool) -> str:
    """Subtitles; SubRip numbers them and writes a comma before the milliseconds."""
    cues: list[str] = []
    for segment in segments:
        text = " ".join(segment.text.replace("-->", "->").split())  # an empty line would end the cue
        if not text:
            continue
        times = f"{_format_time(segment.start_s)} --> {_format_time(segment.end_s)}"
        head = f"{len(cues) + 1}\n{times.replace('.', ',')}" if numbered else times
        cues.append(f"{head}\n{text}\n\n")
    return "".join(cues)


def _format_time(time_s: float) -> str:
    minutes, ms = divmod(round(time_s * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}.{ms % 1000:03}"
