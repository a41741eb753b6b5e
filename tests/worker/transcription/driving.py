"""Runs a transcription engine by hand: messages in, windows out, and what `generate` says of the same recording."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from gpu_worker.protocol import Delta, Finished, FromWorker, Started, Transcribe
from gpu_worker.server.active_transcription import ActiveTranscription
from gpu_worker.server.connection import Connection
from gpu_worker.tasks.transcription.load import LoadedTranscription
from tests.recordings import RATE


@dataclass
class Heard:
    """All that was said of one recording."""

    active: ActiveTranscription
    events: list[FromWorker] = field(default_factory=list)

    @property
    def deltas(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def segments(self) -> list[Any]:
        return [segment for delta in self.deltas for segment in cast(Any, delta.transcript).segments]

    @property
    def end(self) -> Finished:
        assert isinstance(self.events[-1], Finished)
        return self.events[-1]


def ask(audio: bytes, request_id: str = "r", **fields: Any) -> Transcribe:
    """A greedy transcription with segments."""
    return Transcribe(id=request_id, audio=audio, **({"with_segments": True} | fields))


def begin(loaded: LoadedTranscription, message: Transcribe) -> Heard:
    """Prepare and submit, as the server does."""
    heard = Heard(ActiveTranscription(message.id, cast(Connection, None), 1))
    heard.events += heard.active.begin(message, loaded.frontend.prepare(message))
    assert isinstance(heard.events[0], Started)
    loaded.engine.add(heard.active.choices[0].request)
    return heard


def run(loaded: LoadedTranscription, *heards: Heard, num_steps: int | None = None) -> None:
    """Step until nothing is left, or so often."""
    by_request = {heard.active.choices[0].request: heard for heard in heards}
    while loaded.engine.has_work() and num_steps != 0:
        for output in loaded.engine.step():
            heard = by_request[output.request]
            heard.events += heard.active.read(heard.active.choices[0], output)
        num_steps = None if num_steps is None else num_steps - 1


def transcribe(loaded: LoadedTranscription, *messages: Transcribe) -> list[Heard]:
    """All of them together, to the end."""
    heards = [begin(loaded, message) for message in messages]
    run(loaded, *heards)
    return heards


def generate(
    folder: Path, samples: Any, *, change: Callable[[Any], Any] = lambda model: None, **options: Any
) -> dict[str, Any]:
    """One call of the library's own `generate` over the whole recording, on a model of its own, changed by `change`."""
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    change(model)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    is_short = len(samples) <= extractor.n_samples
    inputs = extractor(
        samples,
        sampling_rate=RATE,
        padding="max_length" if is_short else "longest",
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )
    outputs = model.generate(**inputs, return_segments=True, **options)
    return cast("dict[str, Any]", outputs)
