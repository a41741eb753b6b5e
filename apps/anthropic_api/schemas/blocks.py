"""Messages, content blocks and tools as clients of the Messages API send them. Shapes only.

One struct for all kinds of blocks: which fields a kind needs is checked where it is read, so that a kind that is not
supported is refused by its name. Unknown fields of a block are ignored: clients send back what an answer held.
"""

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from apps.openai_api.schemas.fields import Count
from apps.openai_api.schemas.structure import make_null

Role = Literal["user", "assistant", "system"]


class Source(Struct, frozen=True):
    """Where an image is: in the request (`base64`), or at an address (`url`)."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Block(Struct, frozen=True):
    """One piece of a turn's content."""

    type: str
    text: str | None = None
    source: Source | str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = msgspec.field(default_factory=make_null)  # a JSON object, kept as the text that was sent
    tool_use_id: str | None = None
    content: "str | list[Block] | dict[str, Any] | None" = None
    is_error: bool | None = None
    thinking: str | None = None


class Turn(Struct, frozen=True):
    """One message. What the system says may also come between the others."""

    role: Role
    content: str | list[Block]


class MessagesTool(Struct, frozen=True):
    """A tool that the client runs. Anthropic's own tools have another `type` and no `input_schema`."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None
    allowed_callers: list[str] | None = None


class ToolChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the model thinks before it answers, and whether the client is shown what."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    display: Literal["summarized", "omitted"] | None = None
