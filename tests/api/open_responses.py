"""Checks responses and events against the models of Open Responses, and streams against their own rules.

https://www.openresponses.org. Where those models differ from OpenAI's reference, what OpenAI documents counts:
`reasoning_text` in names of events, and the schema that `text.format` repeats (theirs allows null alone).
"""

from typing import Any

import openresponses_types as models
from openai.types.responses import (
    ResponseCustomToolCallInputDeltaEvent,
    ResponseCustomToolCallInputDoneEvent,
    ResponseCustomToolCallItem,
    ResponseCustomToolCallOutput,
    ResponseMcpCallArgumentsDeltaEvent,
    ResponseMcpCallArgumentsDoneEvent,
    ResponseMcpCallCompletedEvent,
    ResponseMcpCallFailedEvent,
    ResponseMcpCallInProgressEvent,
    ResponseMcpListToolsCompletedEvent,
    ResponseMcpListToolsFailedEvent,
    ResponseMcpListToolsInProgressEvent,
)
from openai.types.responses.response_output_item import McpApprovalRequest, McpCall, McpListTools
from pydantic import BaseModel, RootModel, TypeAdapter

_EVENTS: dict[str, type[BaseModel]] = {
    str(next(iter(model.model_fields["type"].annotation))): model
    for name, model in vars(models).items()
    if name.endswith("StreamingEvent") and isinstance(model, type) and not issubclass(model, RootModel)
}
_ITEM: TypeAdapter[Any] = TypeAdapter(
    models.Message | models.FunctionCall | models.FunctionCallOutput | models.ReasoningBody
)
# What these models lack: the openai SDK has it.
_SDK_TYPES: dict[str, type[BaseModel]] = {
    "custom_tool_call": ResponseCustomToolCallItem,
    "custom_tool_call_output": ResponseCustomToolCallOutput,
    "response.custom_tool_call_input.delta": ResponseCustomToolCallInputDeltaEvent,
    "response.custom_tool_call_input.done": ResponseCustomToolCallInputDoneEvent,
    "mcp_list_tools": McpListTools,
    "mcp_call": McpCall,
    "mcp_approval_request": McpApprovalRequest,
    "response.mcp_list_tools.in_progress": ResponseMcpListToolsInProgressEvent,
    "response.mcp_list_tools.completed": ResponseMcpListToolsCompletedEvent,
    "response.mcp_list_tools.failed": ResponseMcpListToolsFailedEvent,
    "response.mcp_call.in_progress": ResponseMcpCallInProgressEvent,
    "response.mcp_call_arguments.delta": ResponseMcpCallArgumentsDeltaEvent,
    "response.mcp_call_arguments.done": ResponseMcpCallArgumentsDoneEvent,
    "response.mcp_call.completed": ResponseMcpCallCompletedEvent,
    "response.mcp_call.failed": ResponseMcpCallFailedEvent,
}


def check_response(response: dict[str, Any]) -> None:
    """Raises ValidationError."""
    if response["text"]["format"]["type"] == "json_schema":
        plain = {"format": {**response["text"]["format"], "schema": None}}
        response = {**response, "text": plain}
    tools = [tool for tool in response["tools"] if tool["type"] == "function"]  # they know no namespaces
    output = []
    for item in response["output"]:
        if item["type"] in _SDK_TYPES:
            check_item(item)
        else:
            output.append(item)
    choice = response["tool_choice"]
    if isinstance(choice, dict) and ("custom" in str(choice) or "mcp" in str(choice)):
        choice = "auto"
    models.ResponseResource.model_validate({**response, "tools": tools, "output": output, "tool_choice": choice})


def check_item(item: dict[str, Any]) -> None:
    """Raises ValidationError."""
    if (model := _SDK_TYPES.get(item["type"])) is not None:
        model.model_validate(item, extra="forbid")
    else:
        _ITEM.validate_python(item)


def check_stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Every event by its model, and the whole by the order of the reference. Returns the last response."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        check_event(event)
    last = events[-1]["response"]
    queued = ["response.queued"] if last["background"] else []
    head = ["response.created", *queued, "response.in_progress"]
    assert [event["type"] for event in events[: len(head)]] == head
    assert events[-1]["type"] == f"response.{last['status']}"
    assert [event["response"]["id"] for event in events if "response" in event] == [last["id"]] * (len(head) + 1)
    done: list[dict[str, Any]] = []
    rest = events[len(head) : -1]
    while rest:
        end = next(place for place, event in enumerate(rest) if event["type"] == "response.output_item.done")
        done.append(_check_item_events(rest[: end + 1], len(done)))
        rest = rest[end + 1 :]
    assert done == last["output"]
    return last


def check_event(event: dict[str, Any]) -> None:
    """Raises ValidationError."""
    if (model := _SDK_TYPES.get(event["type"])) is not None:
        model.model_validate(event, extra="forbid")
        return
    if "response" in event:
        check_response(event["response"])
        plain = {"tools": [], "text": {"format": {"type": "text"}}, "output": [], "tool_choice": "auto"}
        event = {**event, "response": {**event["response"], **plain}}
    if event.get("item", {}).get("type") in _SDK_TYPES:
        check_item(event["item"])
        event = {**event, "item": None}
    kind = event["type"].replace("response.reasoning_text.", "response.reasoning.")
    _EVENTS[kind].model_validate({**event, "type": kind})


def _check_item_events(events: list[dict[str, Any]], output_index: int) -> dict[str, Any]:
    """From output_item.added to output_item.done. Returns the item."""
    item: dict[str, Any] = events[-1]["item"]
    assert {event["output_index"] for event in events} == {output_index}
    assert {event.get("item_id", item["id"]) for event in events} == {item["id"]}
    assert (events[0]["type"], events[0]["item"]["id"]) == ("response.output_item.added", item["id"])
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    kinds = [event["type"] for event in events if not event["type"].endswith(".delta")]
    if item["type"] == "function_call":
        assert kinds[1:-1] == ["response.function_call_arguments.done"]
        assert "".join(deltas) == events[-2]["arguments"] == item["arguments"]
    elif item["type"] == "custom_tool_call":
        assert kinds[1:-1] == ["response.custom_tool_call_input.done"]
        assert "".join(deltas) == events[-2]["input"] == item["input"]
    elif item["type"] == "mcp_call":
        end = {"completed": ["response.mcp_call.completed"], "failed": ["response.mcp_call.failed"]}
        head = ["response.mcp_call.in_progress", "response.mcp_call_arguments.done"]
        assert kinds[1:-1] == head + end.get(item["status"], [])
        assert "".join(deltas) == item["arguments"]
    elif item["type"] == "mcp_list_tools":
        name = "completed" if item["error"] is None else "failed"
        assert kinds[1:-1] == ["response.mcp_list_tools.in_progress", f"response.mcp_list_tools.{name}"]
    elif item["type"] == "mcp_approval_request":
        assert kinds[1:-1] == []
    else:
        name = {"message": "response.output_text", "reasoning": "response.reasoning_text"}[item["type"]]
        assert kinds[1:-1] == ["response.content_part.added", f"{name}.done", "response.content_part.done"]
        (part,) = item["content"]
        assert "".join(deltas) == events[-3]["text"] == part["text"]
        assert events[-2]["part"] == part
    return item
