"""The JSON messages between the chat page and its consumer. Knows nothing of models or of the database."""

from typing import Annotated, Any, Literal

import msgspec

MAX_CONTENT_CHARS = 200_000
MAX_FRAME_CHARS = 4 * MAX_CONTENT_CHARS

Text = Annotated[str, msgspec.Meta(max_length=MAX_CONTENT_CHARS)]


class TurnSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page's drawer says of the next answer. None is the model's own default."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    system_prompt: Text = ""
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None


class Open(msgspec.Struct, frozen=True, tag="open"):
    """Show this conversation and follow the answer being written in it. Sent on every (re)connection."""

    conversation: str | None = None


class Send(msgspec.Struct, frozen=True, tag="send"):
    """A new message; without a conversation it starts one."""

    content: Text
    settings: TurnSettings
    conversation: str | None = None


class Regenerate(msgspec.Struct, frozen=True, tag="regenerate"):
    """Throw the last answer away and write it again."""

    conversation: str
    settings: TurnSettings


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the answer being written; what there is of it is kept."""

    conversation: str


FromPage = Open | Send | Regenerate | Stop
_decoder = msgspec.json.Decoder(FromPage)


def decode_from_page(text: str) -> FromPage:
    """Raises msgspec.DecodeError (of which ValidationError is one) for anything that is not a `FromPage`."""
    return _decoder.decode(text)


class MessageView(msgspec.Struct, frozen=True):
    """One message as the page shows it."""

    id: int
    role: str
    content: str
    reasoning: str
    status: str
    error: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int


class Models(msgspec.Struct, frozen=True, tag="models"):
    """What the person may choose from. The state is that of the model's best replica."""

    models: list[dict[str, str]]


class Shown(msgspec.Struct, frozen=True, tag="conversation"):
    """A whole conversation. An answer still being written is empty here: its deltas follow from the first character."""

    id: str
    title: str
    messages: list[MessageView]


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """The answer has no text yet: the model is loading, others are ahead, or (started) it is this answer's turn."""

    message: int
    stage: Literal["loading", "queued", "started"]
    progress: float | None = None
    queue_position: int | None = None


class Added(msgspec.Struct, frozen=True, tag="delta"):
    """More of an answer, to be appended."""

    message: int
    text: str = ""
    reasoning: str = ""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The answer has ended, however it did: `message.status` says."""

    message: MessageView


class Refused(msgspec.Struct, frozen=True, tag="error"):
    """What the page asked for cannot be done. Nothing was changed."""

    message: str
    code: str | None = None
    request: str = ""  # the type of the message that was refused


ToPage = Models | Shown | Waiting | Added | Done | Refused


def encode_to_page(message: ToPage) -> str:
    """The message as JSON text."""
    return msgspec.json.encode(message).decode()


def to_builtins(value: Any) -> Any:
    """Plain lists and dicts, for a template's JSON block."""
    return msgspec.to_builtins(value)
