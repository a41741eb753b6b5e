"""What the loop yields beside the events of `generate()`: servers asked for their tools, and calls that ended."""

from dataclasses import dataclass

from apps.mcp.results import CallResult
from apps.mcp.servers import ToolSpec


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as this answer has it. `name`: the server's own; `function`: the model's."""

    label: str
    function: str
    spec: ToolSpec
    needs_approval: bool = False


@dataclass(frozen=True, slots=True)
class ListingBegan:
    """A server is asked which tools it has. `is_news`: for the client, as no earlier answer has told it."""

    label: str
    is_news: bool = True


@dataclass(frozen=True, slots=True)
class ListingEnded:
    """It said so, or did not: then `error` tells why, and the answer fails."""

    label: str
    tools: tuple[OfferedTool, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """The model has said what it wants to have called; the calls begin."""


@dataclass(frozen=True, slots=True)
class ApprovedCall:
    """A call that was asked for in an earlier answer and is allowed now. It begins."""

    approval_id: str
    label: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """`call_id`: the model's id of the call, or of the approval where that is what began it."""

    call_id: str
    result: CallResult


ToolEvent = ListingBegan | ListingEnded | RoundEnded | ApprovedCall | CallEnded
