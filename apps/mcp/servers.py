"""A server of tools as the rest of the app sees it, wherever it is written down. Knows no database and no protocol."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

MAX_TOOLS = 128  # of one server
MAX_NAME_CHARS = 64  # of a function, for models and clients alike
_UNUSABLE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """Reached by HTTP; `sse`: in the way of before 2025."""

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    transport: Literal["http", "sse"] = "http"
    may_be_private: bool = False

    @property
    def origin(self) -> str:
        """Without path, query and credentials."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class StdioTarget:
    """A program that is started for each answer, with this environment and no other."""

    command: str
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as its server describes it."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    annotations: dict[str, Any] | None = None

    @property
    def is_read_only(self) -> bool:
        """Whether the server says so."""
        return (self.annotations or {}).get("readOnlyHint") is True


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server. `tools`: those that may be called, where they are known without asking it."""

    label: str
    target: HttpTarget | StdioTarget
    timeout_s: float
    row_id: int | None = None
    tools: tuple[ToolSpec, ...] | None = None

    @property
    def origin(self) -> str:
        """Where a server is that nobody registered."""
        return self.target.origin if self.row_id is None and isinstance(self.target, HttpTarget) else ""


def make_function_name(label: str, tool: str) -> str:
    """The one name by which a model knows a tool: the same in every request, for the history's sake."""
    joined = f"{label}__{tool}"
    name = _UNUSABLE.sub("_", joined)
    if name == joined and len(name) <= MAX_NAME_CHARS:
        return name
    digest = hashlib.sha256(joined.encode(errors="replace")).hexdigest()[:8]
    return f"{name[: MAX_NAME_CHARS - 9]}_{digest}"
