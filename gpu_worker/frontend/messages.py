"""OpenAI chat messages and tools, checked and brought into the shape chat templates expect.

Everything a client can write is either accepted or refused by name; nothing is dropped silently.
Knows nothing of tokenizers.
"""

import json
from collections.abc import Collection
from typing import Any

from gpu_worker.frontend.errors import invalid, unsupported
from gpu_worker.frontend.pictures import MediaRef

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Also the names of the Responses API, which some clients send to the chat endpoint.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_MEDIA_PARTS = frozenset(
    ["image_url", "image", "input_image", "input_audio", "audio", "video_url", "video", "file", "input_file"]
)
# Kinds of parts that come with their bytes, and which field of the part an error names.
_FIELDS = {"image": ".image_url", "audio": ""}
_REFUSALS = {"image": "takes no pictures", "audio": "takes no recordings"}
_REASONING_FIELDS = ("reasoning_content", "reasoning")
_TEXT_FIELDS = ("name", "tool_call_id", *_REASONING_FIELDS)


def read_messages(messages: Any, *, developer_role: bool, takes: Collection[str] = ()) -> list[Message]:
    """Messages with content as one string, tool-call arguments as objects, and no field a template does not know.
    Only content with pictures or recordings (`takes` "image", "audio") is a list of parts, `{"type": "image"}` and
    texts: see `find_media`.

    `developer_role` says whether the template has that role; otherwise it becomes "system".
    Raises RequestRejected.
    """
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a list with at least one message.", "messages")
    checked = [_read_message(message, f"messages[{i}]", developer_role) for i, message in enumerate(messages)]
    for ref in find_media(messages):
        if ref.kind not in takes:
            raise unsupported(f"This model {_REFUSALS[ref.kind]}.", ref.param)
    return checked


def find_media(messages: list[Message]) -> list[MediaRef]:
    """The pictures and recordings of messages that `read_messages` has accepted, in order."""
    return [
        MediaRef(part["media"], f"messages[{i}].content[{j}]{_FIELDS[part['type']]}", part["type"])
        for i, message in enumerate(messages)
        if isinstance(message.get("content"), list)
        for j, part in enumerate(message["content"])
        if _is_media(part)
    ]


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """Function tools as the template gets them. Raises RequestRejected."""
    if not isinstance(tools, list):
        raise invalid("'tools' must be a list.", "tools")
    return [_read_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _read_message(message: Any, param: str, developer_role: bool) -> Message:
    if not isinstance(message, dict):
        raise invalid(f"Invalid type for '{param}': expected an object.", param)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        supported = ", ".join(f"'{name}'" for name in _ROLES)
        raise invalid(f"Invalid value for '{param}.role'. Supported values are: {supported}.", f"{param}.role")
    if role == "developer" and not developer_role:
        role = "system"
    result: Message = {"role": role, "content": _read_content(message.get("content"), f"{param}.content")}
    if role == "assistant" and not isinstance(result["content"], str):
        raise invalid("A message of the assistant cannot hold a picture or a recording.", f"{param}.content")
    for field in _TEXT_FIELDS:
        value = message.get(field)
        if value is not None and not isinstance(value, str):
            raise invalid(f"Invalid type for '{param}.{field}': expected a string.", f"{param}.{field}")
        if value is not None:
            result[field] = value
    if calls := message.get("tool_calls"):
        result["tool_calls"] = _read_tool_calls(calls, f"{param}.tool_calls")
    return result


def _read_content(content: Any, param: str) -> str | list[Message]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"Invalid type for '{param}': expected a string or a list of content parts.", param)
    texts = [None if _is_media(part) else _read_part(part, f"{param}[{i}]") for i, part in enumerate(content)]
    if None not in texts:
        return "\n".join(text for text in texts if text is not None)
    return [
        {"type": part["type"]} if text is None else {"type": "text", "text": text}
        for part, text in zip(content, texts, strict=True)
    ]


def _is_media(part: Any) -> bool:
    """A picture or a recording whose bytes came along, as the web process sends it."""
    if not isinstance(part, dict) or not isinstance(part.get("media"), str):
        return False
    return isinstance(part.get("type"), str) and part["type"] in _FIELDS


def _read_part(part: Any, param: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise invalid(f"Invalid type for '{param}': expected an object.", param)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA_PARTS:
        raise unsupported(f"This model takes text only: a content part of type '{kind}' cannot be read.", param)
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise invalid(f"Invalid value for '{param}.type'. Supported values are: 'text'.", f"{param}.type")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        field = f"{param}.{_TEXT_PARTS[kind]}"
        raise invalid(f"Invalid type for '{field}': expected a string.", field)
    return text


def _read_tool_calls(calls: Any, param: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise invalid(f"Invalid type for '{param}': expected a list.", param)
    return [_read_tool_call(call, f"{param}[{i}]") for i, call in enumerate(calls)]


def _read_tool_call(call: Any, param: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(f"'{param}' must be an object with a 'function' that has a 'name'.", f"{param}.function.name")
    arguments = _read_arguments(function.get("arguments"), f"{param}.function.arguments")
    result: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call.get("id"), str):
        result["id"] = call["id"]
    return result


def _read_arguments(arguments: Any, param: str) -> Any:
    """The object that a JSON text stands for. A text that is none stays: it is what the model wrote."""
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, dict):
        return arguments
    if not isinstance(arguments, str):
        raise invalid(f"Invalid type for '{param}': expected a string of JSON.", param)
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _read_tool(tool: Any, param: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise invalid(f"Invalid type for '{param}': expected an object.", param)
    if tool.get("type", "function") != "function":
        raise unsupported(f"Only tools of type 'function' are supported, see '{param}.type'.", f"{param}.type")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"Invalid type for '{param}.function': expected an object.", f"{param}.function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise invalid(f"'{param}.function.name' must be a non-empty string.", f"{param}.function.name")
    if not isinstance(function.get("parameters", {}), dict | None):
        raise invalid(f"'{param}.function.parameters' must be a JSON schema.", f"{param}.function.parameters")
    shown = {key: value for key, value in function.items() if value is not None and key != "strict"}
    return {"type": "function", "function": shown}
