"""What a training conversation is: chat messages in OpenAI's form, the tools offered, and the setting they share."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages and tools exactly as a client would send them, the wished answers included."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a conversation's start fixed: the assistant's name and role (None: its own), and the tools it has."""

    name: str | None = None
    role: str | None = None
    tool_names: list[str] = field(default_factory=list)
    tool_kinds: frozenset[str] = frozenset()


Exchange = Callable[[random.Random, Setting], list[Message]]
"""Makes a few turns of one subject, first the user's, last the assistant's."""


def user(text: str) -> Message:
    """What the person writes."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """What the model shall answer."""
    return {"role": "assistant", "content": text}


def tool_calls(*calls: tuple[str, dict[str, Any]]) -> Message:
    """The model's calls, each a tool's name and its arguments."""
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls],
    }


def tool_result(result: Any) -> Message:
    """What a tool gave back: text as it is, all else as JSON."""
    return {"role": "tool", "content": result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)}
