"""Responses that call tools of MCP servers: the encoder of responses, with more kinds of items and events.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from apps.core.errors import ServiceError
from apps.mcp.events import (
    ApprovedCall,
    CallEnded,
    ListingBegan,
    ListingEnded,
    OfferedTool,
    RoundEnded,
    ToolEvent,
)
from apps.mcp.servers import ToolSpec, make_function_name
from apps.openai_api.encoders.mcp_items import ApprovalItem, ListItem, McpCallItem
from apps.openai_api.encoders.responses import ResponseEncoder
from apps.openai_api.encoders.responses_items import CallItem, Event
from apps.openai_api.schemas.responses import ResponsesCall
from gpu_worker.protocol import Finished, Sampling, ToolCallDelta


class McpResponseEncoder(ResponseEncoder):
    """A call whose arguments are whole waits in `_waiting` for its tool, and has its place in the output meanwhile."""

    def __init__(self, call: ResponsesCall, sampling: Sampling) -> None:
        super().__init__(call, sampling)
        self._tools: dict[str, OfferedTool] = {}
        self._waiting: dict[str, tuple[int, McpCallItem]] = {}  # by the ids of calls, with their place in the output

    def add_tool_event(self, event: ToolEvent) -> bytes:
        """What comes between the model's own words."""
        match event:
            case ListingBegan():
                return self._begin_listing(event)
            case ListingEnded():
                return self._encode(self._end_listing(event))
            case ApprovedCall():
                return self._encode(self._begin_approved(event))
            case RoundEnded():
                return self._encode(self._close("completed"))
            case CallEnded():
                return self._encode(self._end_call(event))

    def finish(self, finished: Finished) -> bytes:
        """Calls that are not made, after the last round that may make any, end with it."""
        return super().finish(finished) + self._drop_waiting()

    def fail(self, error: ServiceError) -> bytes:
        return self._drop_waiting() + super().fail(error)

    def cancel(self) -> bytes:
        return self._drop_waiting() + super().cancel()

    def _make_call(self, piece: ToolCallDelta) -> CallItem:
        tool = self._tools.get(piece.name or "")
        if tool is None:
            return super()._make_call(piece)
        kind = ApprovalItem if tool.needs_approval else McpCallItem
        return kind(*self._place(kind.prefix), piece, tool)

    def _close(self, status: str) -> list[Event]:
        if isinstance(self._open, ApprovalItem) and status != "completed":
            self._open = None  # nobody is asked about half a call
        if not isinstance(self._open, McpCallItem):
            return super()._close(status)
        item, self._open = self._open, None
        events = item.complete_arguments() if status == "completed" else []
        self._keep_waiting(item, item.call_id)
        return events if status == "completed" else [*events, *self._end_waiting(item.call_id)]

    def _begin_listing(self, began: ListingBegan) -> bytes:
        if not began.is_news:
            return b""
        self._open = ListItem(*self._place(ListItem.prefix), began.label)
        return self._encode(self._open.open())

    def _end_listing(self, listed: ListingEnded) -> list[Event]:
        self._tools |= {tool.function: tool for tool in listed.tools}
        if not isinstance(self._open, ListItem):
            return []
        self._open.end(listed)
        return self._close("completed")

    def _begin_approved(self, call: ApprovedCall) -> list[Event]:
        function = make_function_name(call.label, call.tool)
        tool = self._tools.get(function) or OfferedTool(call.label, function, ToolSpec(call.tool))
        item = McpCallItem.approved(*self._place(McpCallItem.prefix), call, tool)
        events = item.open() + item.add(call.arguments) + item.complete_arguments()
        self._keep_waiting(item, call.approval_id)
        return events

    def _end_call(self, ended: CallEnded) -> list[Event]:
        index, item = self._waiting.pop(ended.call_id)
        events = item.end(ended.result)
        self._replace(index, item, "completed" if ended.result.error is None else "failed")
        return events

    def _keep_waiting(self, item: McpCallItem, call_id: str) -> None:
        self._waiting[call_id] = len(self.response["output"]), item
        self.response["output"] = [*self.response["output"], item.make("in_progress")]

    def _end_waiting(self, call_id: str) -> list[Event]:
        index, item = self._waiting.pop(call_id)
        self._replace(index, item, "incomplete")
        return item.close("incomplete")

    def _drop_waiting(self) -> bytes:
        """No tool answers any more."""
        return self._encode([event for call_id in list(self._waiting) for event in self._end_waiting(call_id)])

    def _replace(self, index: int, item: McpCallItem, status: str) -> None:
        output = list(self.response["output"])
        output[index] = item.make(status)
        self.response["output"] = output


def make_encoder(call: ResponsesCall, sampling: Sampling) -> ResponseEncoder:
    """The one that the call needs."""
    return McpResponseEncoder(call, sampling) if call.tools.servers else ResponseEncoder(call, sampling)
