"""Items of an answer that calls tools of MCP servers: listings, calls, and what somebody has to allow first."""

from apps.mcp.events import ApprovedCall, ListingEnded, OfferedTool
from apps.mcp.results import CallResult
from apps.openai_api.encoders.responses_items import CallItem, Event, OpenItem
from apps.openai_api.encoders.responses_object import Item
from apps.openai_api.schemas.responses_tools import CalledName
from gpu_worker.protocol import ToolCallDelta


class ListItem(OpenItem):
    """A server's tools."""

    prefix = "mcpl"

    def __init__(self, item_id: str, output_index: int, label: str) -> None:
        super().__init__(item_id, output_index)
        self._listed = ListingEnded(label, error="It was not answered.")
        self._is_open = True

    def open(self) -> list[Event]:
        return [*super().open(), {"type": "response.mcp_list_tools.in_progress", "item_id": self._id, **self._at}]

    def end(self, listed: ListingEnded) -> None:
        """The server has answered, or has not."""
        self._listed = listed
        self._is_open = False

    def make(self, status: str) -> Item:
        tools = [_describe(tool) for tool in self._listed.tools]
        item = {"id": self._id, "type": "mcp_list_tools", "server_label": self._listed.label, "tools": tools}
        return {**item, "error": None if self._is_open and status == "in_progress" else self._listed.error}

    def _make_done(self) -> list[Event]:
        name = "completed" if self._listed.error is None else "failed"
        return [{"type": f"response.mcp_list_tools.{name}", "item_id": self._id, **self._at}]


class McpCallItem(CallItem):
    """A call: its arguments first, then, when `end` has said it, how it ended."""

    prefix = "mcp"

    def __init__(self, item_id: str, output_index: int, piece: ToolCallDelta, tool: OfferedTool) -> None:
        super().__init__(item_id, output_index, piece, CalledName(tool.spec.name))
        self.call_id = piece.id or ""
        self._label = tool.label
        self._approval_id: str | None = None
        self._result: CallResult | None = None

    @classmethod
    def approved(cls, item_id: str, output_index: int, call: ApprovedCall, tool: OfferedTool) -> "McpCallItem":
        """One that was asked for in an earlier answer."""
        item = cls(item_id, output_index, ToolCallDelta(0, call.approval_id), tool)
        item._approval_id = call.approval_id
        return item

    def open(self) -> list[Event]:
        return [*super().open(), {"type": "response.mcp_call.in_progress", "item_id": self._id, **self._at}]

    def add(self, text: str) -> list[Event]:
        if not text:
            return []
        self._texts.append(text)
        return [{"type": "response.mcp_call_arguments.delta", "item_id": self._id, **self._at, "delta": text}]

    def complete_arguments(self) -> list[Event]:
        """The model has said all of it."""
        done = {"type": "response.mcp_call_arguments.done", "item_id": self._id, **self._at}
        return [{**done, "arguments": self._text}]

    def end(self, result: CallResult) -> list[Event]:
        """The tool has answered."""
        self._result = result
        return self.close("completed" if result.error is None else "failed")

    def make(self, status: str) -> Item:
        result = self._result
        return {
            "id": self._id,
            "type": "mcp_call",
            "status": status,
            "approval_request_id": self._approval_id,
            "arguments": self._text,
            "error": result.error if result else None,
            "name": self._called.name,
            "output": result.output if result else None,
            "server_label": self._label,
        }

    def _make_done(self) -> list[Event]:
        if self._result is None:
            return []  # it never ended
        name = "completed" if self._result.error is None else "failed"
        return [{"type": f"response.mcp_call.{name}", "item_id": self._id, **self._at}]


class ApprovalItem(CallItem):
    """A call that has to be allowed: told when its arguments are whole."""

    prefix = "mcpr"

    def __init__(self, item_id: str, output_index: int, piece: ToolCallDelta, tool: OfferedTool) -> None:
        super().__init__(item_id, output_index, piece, CalledName(tool.spec.name))
        self._label = tool.label

    def open(self) -> list[Event]:
        return []

    def add(self, text: str) -> list[Event]:
        self._texts.append(text)
        return []

    def close(self, status: str) -> list[Event]:
        item = self.make(status)
        names = ("response.output_item.added", "response.output_item.done")
        return [{"type": name, **self._at, "item": item} for name in names]

    def make(self, status: str) -> Item:
        return {
            "id": self._id,
            "type": "mcp_approval_request",
            "arguments": self._text,
            "name": self._called.name,
            "server_label": self._label,
        }


def _describe(tool: OfferedTool) -> Item:
    spec = tool.spec
    return {
        "name": spec.name,
        "description": spec.description,
        "input_schema": spec.input_schema,
        "annotations": spec.annotations,
    }
