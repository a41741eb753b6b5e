"""The kinds of requests a worker takes, and what they have in common. Event loop thread only; starts nothing."""

from typing import Any, Protocol

from gpu_worker.frontend.errors import unsupported
from gpu_worker.frontend.sampling import MAX_CHOICES
from gpu_worker.frontend.tokenization import detokenize, tokenize
from gpu_worker.protocol import Detokenize, Embed, Generate, Score, Submission, Task, Tokenize, Transcribe
from gpu_worker.server.active import ActiveRequest
from gpu_worker.server.active_pooling import ActivePooling
from gpu_worker.server.active_tokens import ActiveTokens
from gpu_worker.server.active_transcription import ActiveTranscription
from gpu_worker.server.connection import Connection

_TASKS: dict[type[Submission], Task] = {
    Generate: "generate",
    Tokenize: "generate",
    Detokenize: "generate",
    Embed: "embed",
    Score: "score",
    Transcribe: "transcribe",
}
_WORDS: dict[Task, str] = {
    "generate": "chat and text completions",
    "embed": "embeddings",
    "score": "rerank and score",
    "transcribe": "transcriptions",
}


class Frontend(Protocol):
    """The text side of a model."""

    def prepare(self, request: Any) -> Any:
        """What the engine needs of a message of the model's own task. Blocking; raises RequestRejected."""


def make_active(message: Submission, connection: Connection) -> ActiveRequest:
    """The request's state from here to its last event."""
    if isinstance(message, Transcribe):
        return ActiveTranscription(message.id, connection, 1, held_bytes=len(message.audio))
    kind: type[ActiveRequest] = ActivePooling
    if isinstance(message, Generate):
        kind = ActiveRequest
    elif isinstance(message, Tokenize | Detokenize):
        kind = ActiveTokens
    return kind(message.id, connection, count_choices(message))


def prepare(frontend: Any, message: Submission) -> Any:
    """What a request needs before it can run, or its answer. Blocking; raises RequestRejected."""
    match message:
        case Tokenize():
            return tokenize(frontend, message)
        case Detokenize():
            return detokenize(frontend, message)
    return frontend.prepare(message)


def count_choices(message: Submission) -> int:
    """How many sequences it may put into the engine, wrong counts included: they are refused later."""
    return min(max(message.n, 1), MAX_CHOICES) if isinstance(message, Generate) else 1


def check_task(message: Submission, task: Task) -> None:
    """Raises RequestRejected where the model is for something else."""
    wanted = _TASKS[type(message)]
    if wanted != task:
        raise unsupported(f"This model is for {_WORDS[task]}, not for {_WORDS[wanted]}.", "model")


def find_media(message: Submission) -> dict[str, bytes]:
    """The pictures and recordings that have to be read first."""
    request = message.request if isinstance(message, Tokenize) else message
    return (request.media or {}) if isinstance(request, Generate) else {}
