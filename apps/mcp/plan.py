"""Which tools an answer may call, and when it has to ask: what a request says of them. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apps.mcp.events import ApprovedCall, OfferedTool
from apps.mcp.servers import ServerSpec, ToolSpec, make_function_name

Functions = list[dict[str, Any]]
Choice = str | dict[str, Any] | None
MAX_DESCRIPTION_CHARS = 4096


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Tools by their names, by what the server says of them, or both."""

    tool_names: frozenset[str] | None = None
    read_only: bool | None = None

    def matches(self, tool: ToolSpec) -> bool:
        """Whether it is one of them."""
        if self.tool_names is not None and tool.name not in self.tool_names:
            return False
        return self.read_only is None or tool.is_read_only == self.read_only


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """Which tools are not called before somebody has allowed it: all but those of `never`; only `always`, if given."""

    default: bool
    always: ToolFilter | None = None
    never: ToolFilter | None = None

    def applies_to(self, tool: ToolSpec) -> bool:
        """Whether the call has to be allowed. A tool that both filters name has to be."""
        if self.always is not None and self.always.matches(tool):
            return True
        return self.default and not (self.never is not None and self.never.matches(tool))


@dataclass(frozen=True, slots=True)
class OfferedServer:
    """A server in a request."""

    spec: ServerSpec
    allowed: ToolFilter
    approval: ApprovalRule
    is_news: bool = True

    def offer(self, tools: tuple[ToolSpec, ...]) -> tuple[OfferedTool, ...]:
        """Those of its tools that the request allows."""
        label = self.spec.label
        return tuple(
            OfferedTool(label, make_function_name(label, tool.name), tool, self.approval.applies_to(tool))
            for tool in tools
            if self.allowed.matches(tool)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the loop has to know beside the request to the model.

    `choose` gives the functions to offer, of all that there are, and the model's tool choice; it raises ServiceError.
    """

    servers: tuple[OfferedServer, ...]
    choose: Callable[[Functions | None], tuple[Functions | None, Choice]]
    functions: Functions | None = None  # the client's own
    approved: tuple[ApprovedCall, ...] = ()
    max_calls: int | None = None
    tells_listings: bool = True  # to the client, who may wait for them
    calls_beside_functions: bool = True  # where a round calls a function of the client's too


def describe_tool(tool: OfferedTool) -> dict[str, Any]:
    """As the model is told of it."""
    function = {
        "name": tool.function,
        "description": tool.spec.description[:MAX_DESCRIPTION_CHARS],
        "parameters": tool.spec.input_schema,
    }
    return {"type": "function", "function": function}
