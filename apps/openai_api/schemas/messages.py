"""Messages and tools as clients send them, and the one form in which the worker gets them.

Tolerant where clients are known to differ: content as parts, tools in the flat form of the Responses API or in
Anthropic's, fields that a client echoes back from an earlier answer. What carries meaning that would be lost,
a file for one, is refused.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from apps.core.errors import InvalidRequest, UnsupportedParameter

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_IMAGE_PARTS = frozenset({"image_url", "input_image"})
_AUDIO_PARTS = frozenset({"input_audio", "audio_url"})
CUSTOM_ARGUMENT = "input"  # of the function that a custom tool is to a model
_AUDIO_FORMATS = ("wav", "mp3")
# Models look at an image in the one way that they were made for, which is no low resolution.
_DETAILS = (None, "auto", "high")


class ImageUrl(Struct, frozen=True):
    """An image by its address: data:, http: or https:."""

    url: str
    detail: str | None = None


class InputAudio(Struct, frozen=True):
    """A recording itself, in base64."""

    data: str
    format: str


class AudioUrl(Struct, frozen=True):
    """A recording by its address: data:, http: or https:."""

    url: str


class Part(Struct, frozen=True):
    """One piece of a content list. The Responses API writes `image_url` and `detail` side by side."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    detail: str | None = None
    input_audio: InputAudio | None = None
    audio_url: AudioUrl | str | None = None
    # of Anthropic's parts, which anthropic_parts.py reads
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Part] | None" = None
    is_error: bool | None = None
    thinking: str | None = None


class CalledFunction(Struct, frozen=True):
    """The function of a tool call. `arguments` is JSON; some clients send the object itself."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class CalledCustom(Struct, frozen=True):
    """The custom tool of a tool call, and what was written to it."""

    name: str
    input: str = ""


class ToolCall(Struct, frozen=True):
    """A call that the assistant made in an earlier turn: of a function, or of a custom tool."""

    function: CalledFunction | None = None
    id: str | None = None
    type: str | None = None
    custom: CalledCustom | None = None


class Message(Struct, frozen=True):
    """One turn. Unknown fields are ignored: clients send back whatever an answer held."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    function_call: Any = None
    audio: Any = None


class FunctionSpec(Struct, frozen=True):
    """What the model is told of a function. With `strict` its arguments are always right (docs/api.md)."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, frozen=True):
    """{"type": "function", "function": {…}}, the flat form of the Responses API, or Anthropic's with `input_schema`."""

    type: str = "function"
    function: FunctionSpec | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    input_schema: dict[str, Any] | None = None


def convert_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """The worker's form: role, text content, and what its chat template may use. Raises InvalidRequest."""
    if not messages:
        raise InvalidRequest("'messages' must hold at least one message.", param="messages")
    return [_convert_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _convert_message(message: Message, path: str) -> dict[str, Any]:
    for name in ("function_call", "audio"):
        if getattr(message, name) is not None:
            raise UnsupportedParameter(f"'{path}.{name}' is not supported here.", param=f"{path}.{name}")
    converted: dict[str, Any] = {"role": message.role, "content": _convert_content(message, path)}
    if message.name is not None:
        converted["name"] = message.name
    if message.tool_call_id is not None:
        converted["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        converted["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        converted["tool_calls"] = [_convert_tool_call(call, f"{path}.tool_calls[{index}]") for index, call in calls]
    return converted


def _convert_content(message: Message, path: str) -> str | list[dict[str, Any]]:
    """One text; a list of texts, images and recordings where there is one of these."""
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.role == "assistant":  # a call, a refusal, or an answer that was cut before it began
            return message.refusal or ""
        raise InvalidRequest(f"'{path}.content' is required.", param=f"{path}.content")
    paths = [f"{path}.content[{index}]" for index in range(len(content))]
    if not any(part.type in _IMAGE_PARTS | _AUDIO_PARTS for part in content):
        return "\n".join(map(_read_part, content, paths))
    if message.role == "assistant":
        raise InvalidRequest(
            f"'{path}': a message of the assistant cannot hold images or recordings.", param=f"{path}.content"
        )
    return [_convert_part(part, where) for part, where in zip(content, paths, strict=True)]


def _convert_part(part: Part, path: str) -> dict[str, Any]:
    if part.type in _IMAGE_PARTS:
        return _convert_image(part, path)
    if part.type == "input_audio":
        return _convert_audio(part, path)
    if part.type == "audio_url":
        url = part.audio_url.url if isinstance(part.audio_url, AudioUrl) else part.audio_url
        if not url:
            raise InvalidRequest(f"'{path}.audio_url' is required.", param=f"{path}.audio_url")
        return {"type": "audio_url", "audio_url": url}
    return {"type": "text", "text": _read_part(part, path)}


def _convert_audio(part: Part, path: str) -> dict[str, Any]:
    """As a data: URL. What the recording is, its content says."""
    audio = part.input_audio
    if audio is None or not audio.data:
        raise InvalidRequest(f"'{path}.input_audio' is required.", param=f"{path}.input_audio")
    if audio.format not in _AUDIO_FORMATS:
        where = f"{path}.input_audio.format"
        raise InvalidRequest(f"'{where}' must be 'wav' or 'mp3'.", param=where)
    data = audio.data if audio.data[:5] == "data:" else f"data:audio/{audio.format};base64,{audio.data}"
    return {"type": "input_audio", "audio_url": data}


def _convert_image(part: Part, path: str) -> dict[str, Any]:
    image = ImageUrl(part.image_url, part.detail) if isinstance(part.image_url, str) else part.image_url
    if image is None or not image.url:
        raise InvalidRequest(f"'{path}.image_url' is required.", param=f"{path}.image_url")
    if image.detail not in _DETAILS:
        where = f"{path}.detail" if isinstance(part.image_url, str) else f"{path}.image_url.detail"
        raise UnsupportedParameter(f'\'{where}\' can be "auto" or "high" here.', param=where)
    return {"type": "image_url", "image_url": image.url}


def _read_part(part: Part, path: str) -> str:
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type not in _TEXT_PARTS:
        message = f"'{path}': parts of type '{part.type}' are not supported, only text, images and audio."
        raise UnsupportedParameter(message, param=path)
    if part.text is None:
        raise InvalidRequest(f"'{path}.text' is required.", param=f"{path}.text")
    return part.text


def _convert_tool_call(call: ToolCall, path: str) -> dict[str, Any]:
    """A custom tool is a function with one argument, as the model knows it (custom_tools.py)."""
    function = call.function
    if function is None:
        if call.custom is None:
            raise InvalidRequest(f"'{path}.function' is required.", param=f"{path}.function")
        function = CalledFunction(call.custom.name, {CUSTOM_ARGUMENT: call.custom.input})
    arguments = function.arguments
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    converted = {"type": "function", "function": {"name": function.name, "arguments": arguments}}
    return converted if call.id is None else {"id": call.id, **converted}


def convert_tool(tool: Tool, path: str) -> dict[str, Any]:
    """One tool, which errors call by its path. Raises InvalidRequest."""
    is_anthropic = tool.type in ("function", "custom") and tool.input_schema is not None
    if tool.type != "function" and not is_anthropic:
        raise UnsupportedParameter(f"'{path}': tools of type '{tool.type}' are not supported.", param=f"{path}.type")
    spec = tool.function
    if spec is None:
        if tool.name is None:
            raise InvalidRequest(f"'{path}.function' is required.", param=f"{path}.function")
        spec = FunctionSpec(tool.name, tool.description, tool.parameters or tool.input_schema, tool.strict)
    if not spec.name:
        raise InvalidRequest(f"'{path}.function.name' is empty.", param=f"{path}.function.name")
    function: dict[str, Any] = {"name": spec.name}
    if spec.description is not None:
        function["description"] = spec.description
    function["parameters"] = spec.parameters or {"type": "object", "properties": {}}
    if spec.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
