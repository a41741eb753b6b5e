"""Earlier turns in the shape that a chat template wants them: calls of tools, their results, and the tools on offer.

What a template wants is found out by rendering small conversations, once, at load.
"""

import hashlib
import json
from collections.abc import Callable
from itertools import product
from typing import Any, Literal, NamedTuple

from gpu_worker.frontend.messages import Message

# Renders a conversation; gives "" where the template fails.
TryRender = Callable[..., str]
CallIds = Literal["own", "short", "named"]
# Writes calls, each a name and arguments, as the model itself does.
WriteCalls = Callable[[list[tuple[str, Any]]], str]

PROBE = "atrium-probe"
_NAME = "atrium-function"
_USER: Message = {"role": "user", "content": "atrium"}
_SHORT_ID_LENGTH = 9


class HistoryShape(NamedTuple):
    """What differs between templates."""

    has_argument_text: bool = False  # arguments as JSON text, not as an object
    # of calls: as they are, nine letters and digits (Mistral), or such as functions.NAME:0 (Kimi)
    ids: CallIds = "own"
    joins_reasoning: bool = False  # beside calls, there is room for either reasoning or content (gpt-oss)
    has_system_tools: bool = False  # tools are a text in the system message (Phi-4-mini)
    write_calls: WriteCalls | None = None  # the template shows no calls: they become content

    def shape(self, chat: list[Message], tools: list[dict[str, Any]] | None = None) -> list[Message]:
        """The conversation as the template wants it."""
        ids = self._rename_ids(chat)
        shaped = [self._shape_message(message, ids) for message in chat]
        if not tools or not self.has_system_tools:
            return shaped
        text = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        if shaped[0]["role"] != "system":
            shaped = [{"role": "system", "content": ""}, *shaped]
        return [{**shaped[0], "tools": text}, *shaped[1:]]

    def _shape_message(self, message: Message, ids: dict[str, str]) -> Message:
        shaped = dict(message)
        if (call_id := message.get("tool_call_id")) in ids:
            shaped["tool_call_id"] = ids[call_id]
        if not (calls := message.get("tool_calls")):
            return shaped
        if self.write_calls is not None:
            functions = [call["function"] for call in shaped.pop("tool_calls")]
            text = self.write_calls([(function["name"], function["arguments"]) for function in functions])
            content = message["content"]
            if isinstance(content, str):
                shaped["content"] = f"{content}\n{text}" if content else text
            else:
                shaped["content"] = [*content, {"type": "text", "text": text}]
            return shaped
        shaped["tool_calls"] = [self._shape_call(call, ids) for call in calls]
        content = message["content"]
        if self.joins_reasoning and message.get("reasoning_content") and content and isinstance(content, str):
            shaped["reasoning_content"] = f"{message['reasoning_content']}\n\n{content}"
            shaped["content"] = ""
        return shaped

    def _shape_call(self, call: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
        shaped = {**call, "function": dict(call["function"])}
        if self.has_argument_text and isinstance(call["function"]["arguments"], dict):
            shaped["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        if self.ids != "own":
            shaped["id"] = ids[call.get("id", "")]
        return shaped

    def _rename_ids(self, chat: list[Message]) -> dict[str, str]:
        """Old id -> new id, for every call and every result."""
        if self.ids == "own":
            return {}
        calls = [call for message in chat for call in message.get("tool_calls") or []]
        if self.ids == "named":
            return {
                call.get("id", ""): f"functions.{call['function']['name']}:{index}" for index, call in enumerate(calls)
            }
        results = [message["tool_call_id"] for message in chat if "tool_call_id" in message]
        return {call_id: _shorten(call_id) for call_id in [*(call.get("id", "") for call in calls), *results]}


def find_history_shape(
    try_render: TryRender, *, has_system_tools: bool, write_calls: WriteCalls | None = None
) -> HistoryShape:
    """The first shape in which a call shows in the prompt, the plainest first. `write_calls` is for templates that
    show none at all: of DeepSeek V3, for one, which wants null where transformers passes nothing on."""
    ids: tuple[CallIds, ...] = ("own", "short", "named")
    shapes = (HistoryShape(*choice) for choice in product((False, True), ids))
    shape = next((shape for shape in shapes if _shows_call(try_render, shape)), None)
    if shape is None:
        return HistoryShape(has_system_tools=has_system_tools, write_calls=write_calls)
    joins_reasoning = _refuses_reasoning_beside_content(try_render, shape)
    return shape._replace(joins_reasoning=joins_reasoning, has_system_tools=has_system_tools)


def takes_late_system(try_render: TryRender) -> bool:
    """Whether what the system says after the first turn shows in the prompt: some templates refuse or lose it."""
    return PROBE in try_render([_USER, {"role": "system", "content": PROBE}])


def join_late_system(chat: list[Message]) -> list[Message]:
    """For templates that take none: what the system says later becomes part of the turn before it, or of the user's."""
    joined: list[Message] = []
    takes_more = False  # whether what the user says next belongs to the same turn
    for message in chat:
        is_late = bool(joined) and message["role"] == "system"
        if (is_late and joined[-1]["role"] in ("user", "system")) or (takes_more and message["role"] == "user"):
            joined[-1] = {**joined[-1], "content": _join_contents(joined[-1]["content"], message["content"])}
        else:
            joined.append({**message, "role": "user"} if is_late else message)
        takes_more = joined[-1]["role"] == "user" and (is_late or takes_more)
    return joined


def takes_tools(try_render: TryRender) -> bool:
    """Whether a tool that is offered shows in the prompt."""
    return PROBE in try_render([_USER], tools=[_make_tool()])


def takes_system_tools(try_render: TryRender) -> bool:
    """Whether it shows as a text in the system message."""
    return PROBE in try_render(HistoryShape(has_system_tools=True).shape([_USER], [_make_tool()]))


def _make_tool() -> dict[str, Any]:
    function = {"name": PROBE, "description": "", "parameters": {"type": "object", "properties": {}}}
    return {"type": "function", "function": function}


def _make_calling(**fields: Any) -> list[Message]:
    call = {"id": "call_1", "type": "function", "function": {"name": _NAME, "arguments": {PROBE: 1}}}
    return [
        _USER,
        {"role": "assistant", "content": "", "tool_calls": [call], **fields},
        {"role": "tool", "content": "1", "name": _NAME, "tool_call_id": "call_1"},
    ]


def _shows_call(try_render: TryRender, shape: HistoryShape) -> bool:
    """In JSON or in a notation of its own, but not as Python would print an object."""
    text = try_render(shape.shape(_make_calling()))
    return PROBE in text and _NAME in text and repr(PROBE) not in text


def _refuses_reasoning_beside_content(try_render: TryRender, shape: HistoryShape) -> bool:
    def renders(**fields: Any) -> bool:
        return bool(try_render(shape.shape(_make_calling(**fields))))

    return renders(reasoning_content=PROBE) and not renders(reasoning_content=PROBE, content=PROBE)


def _join_contents(first: Any, second: Any) -> Any:
    """Two texts as one; lists of parts where one of them is such a list."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    parts = [[{"type": "text", "text": item}] if isinstance(item, str) else item for item in (first, second)]
    return [*parts[0], *parts[1]]


def _shorten(call_id: str) -> str:
    """The same short id for the same id."""
    if len(call_id) == _SHORT_ID_LENGTH and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:_SHORT_ID_LENGTH]
