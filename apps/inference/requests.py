"""One valid request, whichever endpoint it came through."""

from typing import Any

import msgspec

from apps.accounts.caller import Caller
from gpu_worker.protocol import Embed, ReasoningSetting, RequestKind, Score, Structure, Transcribe


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint hands to `generate()`: past this type only valid data exists.

    `sampling` holds only what the client set, under the field names of `gpu_worker.protocol.Sampling`;
    `generate()` lays it over the model's defaults and draws the seed where none is given.
    """

    id: str  # also the id of the usage row, and of the OpenAI object
    caller: Caller
    model: str  # as the client named it: name or name@revision
    endpoint: str  # for usage: "chat.completions", "completions", "chat" ...
    kind: RequestKind
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    sampling: dict[str, Any] = msgspec.field(default_factory=dict)
    n: int = 1
    stream: bool = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    echo: bool = False
    suffix: str = ""
    structure: Structure | None = None
    priority: int = 0
    # A part {"type": "image_url", "image_url": URL} of `messages` is loaded by `generate()` and moves here.
    media: dict[str, bytes] | None = None
    # What the endpoint means by saying nothing of thinking, where the model's own setting says nothing either; and
    # the effort that it takes for saying nothing.
    default_reasoning: ReasoningSetting = "auto"
    neutral_effort: str = "medium"
    thinking_budget: int | None = None


class PoolingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One for vectors or scores. `message` is what the worker is asked, but for its id and its user."""

    id: str
    caller: Caller
    model: str
    endpoint: str
    message: Embed | Score
    stream: bool = False


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A recording to be written down. `message` is what the worker is asked, but for its id and its user."""

    id: str
    caller: Caller
    model: str
    endpoint: str
    message: Transcribe
    stream: bool = False


AnyRequest = GenerationRequest | PoolingRequest | TranscriptionRequest
