"""Holds streams that call tools to OpenAI's own types, and to the order of their events."""

import json
from typing import Any

from openai.types.responses import ResponseOutputItem
from pydantic import TypeAdapter

from tests.api import open_responses

_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)


def check_response(response: dict[str, Any]) -> dict[str, Any]:
    """Raises ValidationError. Returns it."""
    open_responses.check_response(response)
    for item in response["output"]:
        _ITEM.validate_python(item)
    return response


def check_events(text: str) -> list[dict[str, Any]]:
    """Each by its type, in order, items begun and ended once at the place that they have in the response."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        open_responses.check_event(event)
    response = check_response(events[-1]["response"])
    begun = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in begun] == list(range(len(response["output"])))
    assert sorted(event["output_index"] for event in done) == list(range(len(response["output"])))
    for event in done:
        assert response["output"][event["output_index"]] == event["item"]
    return events
