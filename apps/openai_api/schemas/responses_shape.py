"""The input of the Responses API as messages: items of a conversation in, the turns that a chat template knows out.

Also for chat completions, where Cursor posts such bodies for some models. Knows nothing of what is stored.
https://platform.openai.com/docs/api-reference/responses/create#responses-create-input
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from apps.core.errors import InvalidRequest, ServiceError, UnsupportedParameter
from apps.mcp.results import describe_result as describe_mcp_result
from apps.mcp.servers import make_function_name
from apps.openai_api.schemas.custom_tools import make_arguments
from apps.openai_api.schemas.messages import CalledFunction, Message, Part, ToolCall, convert_messages

Error = TypeVar("Error", bound=ServiceError)

# without which an item of a known type cannot be read
_NEEDED_FIELDS = {
    "message": "role",
    "function_call": "name",
    "function_call_output": "call_id",
    "custom_tool_call": "name",
    "custom_tool_call_output": "call_id",
    "mcp_call": "name",
    "mcp_approval_request": "name",
    "mcp_approval_response": "approval_request_id",
}
_PLACE = re.compile(r"messages\[(\d+)\]([\w.\[\]]*)")
_PART = re.compile(r"^\.content\[(\d+)\]")


class InputItem(Struct, frozen=True):
    """A message, a call of the assistant's, a call's output, or what the assistant thought."""

    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    server_label: str | None = None
    approval_request_id: str | None = None
    approve: bool | None = None
    reason: str | None = None
    error: Any = None


class Conversation(NamedTuple):
    """Messages, and for each the field of the body that it comes from, such as `input[3]`."""

    messages: list[Message]
    origins: list[str]
    output: str = ".output"  # what the body calls the content of a tool's message
    shifts: dict[int, int] = {}  # messages that lack the first parts of what the body has: how many

    def convert(self) -> list[dict[str, Any]]:
        """The worker's form. Raises InvalidRequest that names the item."""
        if not self.messages:
            raise InvalidRequest("'input' is empty.", param="input")
        try:
            return convert_messages(self.messages)
        except InvalidRequest as error:
            raise self.rename(error) from None

    def rename(self, error: Error) -> Error:
        """The same error, about the item instead of the message that it became."""
        error.param = error.param and _PLACE.sub(self._name, error.param)
        error.message = _PLACE.sub(self._name, error.message)
        return error

    def _name(self, place: re.Match[str]) -> str:
        index = int(place[1])
        if index >= len(self.origins):
            return place[0]
        origin = self.origins[index]
        if not origin.endswith("]"):
            return origin
        field = place[2]
        if shift := self.shifts.get(index):
            field = _PART.sub(lambda part: f".content[{int(part[1]) + shift}]", field)
        is_output = self.messages[index].role == "tool"
        return origin + (field.replace(".content", self.output, 1) if is_output else field)


def rename_field(error: ServiceError, names: Mapping[str, str]) -> None:
    """Have the error call a field of these by its other name."""
    if name := names.get(error.param or ""):
        error.message = error.message.replace(f"'{error.param}'", f"'{name}'")
        error.param = name


def convert_input(
    given: str | list[InputItem],
    instructions: str | None = None,
    history: list[InputItem] | None = None,
    history_origin: str = "previous_response_id",
) -> Conversation:
    """Instructions, what was said before, and the input. Raises InvalidRequest for an item that cannot be read."""
    builder = _Builder()
    if instructions is not None:
        builder.add_message(Message(role="system", content=instructions), "instructions")
    for item in history or ():
        builder.add(item, history_origin)
    if isinstance(given, str):
        builder.add(InputItem(role="user", content=given), "input")
    else:
        for index, item in enumerate(given):
            builder.add(item, f"input[{index}]")
    return Conversation(builder.messages, builder.origins)


def join_name(namespace: str | None, name: str) -> str:
    """The name by which a model knows a function of a namespace."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith("__") else f"{namespace}__{name}"


class _Builder:
    """Puts together what the assistant thought, said and called in one turn, as chat templates want it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.origins: list[str] = []
        self._asked: dict[str, InputItem] = {}  # approvals, by their ids

    def add(self, item: InputItem, origin: str) -> None:
        """Raises UnsupportedParameter for an item of another kind."""
        match item:
            case InputItem(type="function_call", name=str(name)):
                self._add_call(item, name, origin)
            case InputItem(type="custom_tool_call", name=str(name)):
                arguments = make_arguments(item.input or "")
                self._add_call(msgspec.structs.replace(item, arguments=arguments), name, origin)
            case InputItem(type="function_call_output" | "custom_tool_call_output", call_id=str()):
                self.add_message(Message(role="tool", content=item.output or "", tool_call_id=item.call_id), origin)
            case InputItem(type="mcp_list_tools"):
                pass  # what the model may call it is told anew
            case InputItem(type="mcp_call", name=str(name)):
                self._add_mcp_call(item, name, describe_mcp_result(item.output, item.error), origin)
            case InputItem(type="mcp_approval_request", id=str(item_id), name=str()):
                self._asked[item_id] = item
            case InputItem(type="mcp_approval_response", approval_request_id=str()):
                self._add_decision(item, origin)
            case InputItem(type="reasoning"):
                self._add_reasoning(item, origin)
            case InputItem(type="message", role="assistant"):
                self._add_answer(item, origin)
            case InputItem(type="message", role="system" | "developer" | "user"):
                role: Any = item.role
                self.add_message(Message(role=role, content=item.content), origin)
            case InputItem(type=kind) if kind in _NEEDED_FIELDS:
                field = _NEEDED_FIELDS[kind]
                raise InvalidRequest(f"'{origin}.{field}' is missing or not valid.", param=f"{origin}.{field}")
            case _:
                raise UnsupportedParameter(f"'{origin}' of type '{item.type}' is not supported.", param=origin)

    def add_message(self, message: Message, origin: str) -> None:
        """One turn more. What the system says first is one message: many templates take no second."""
        is_system = message.role in ("system", "developer")
        if is_system and len(self.messages) == 1 and self.messages[0].role in ("system", "developer"):
            parts = [*_make_parts(self.messages[0]), *_make_parts(message)]
            self.messages[0] = msgspec.structs.replace(self.messages[0], content=parts)
            return
        self.messages.append(message)
        self.origins.append(origin)

    def _add_mcp_call(self, item: InputItem, name: str, result: str, origin: str) -> None:
        function = make_function_name(item.server_label or "", name)
        self._add_call(msgspec.structs.replace(item, call_id=item.id), function, origin)
        self.add_message(Message(role="tool", content=result, tool_call_id=item.id), origin)

    def _add_decision(self, item: InputItem, origin: str) -> None:
        """What was refused is told to the model as the call's result. What was allowed is called later, or was."""
        asked = self._asked.get(item.approval_request_id or "")
        if asked is None:
            param = f"{origin}.approval_request_id"
            raise InvalidRequest(f"'{param}': there is no such request in the conversation.", param=param)
        if item.approve is None:
            raise InvalidRequest(f"'{origin}.approve' is required.", param=f"{origin}.approve")
        if not item.approve:
            because = f" because: {item.reason}" if item.reason else "."
            self._add_mcp_call(asked, asked.name or "", f"Error: the user did not allow this call{because}", origin)

    def _add_call(self, item: InputItem, name: str, origin: str) -> None:
        call = ToolCall(CalledFunction(join_name(item.namespace, name), item.arguments or "{}"), id=item.call_id)
        turn = self._find_open_turn()
        if turn is None:
            self.add_message(Message(role="assistant", tool_calls=[call]), origin)
        else:
            self._replace_last(tool_calls=[*(turn.tool_calls or []), call])

    def _add_answer(self, item: InputItem, origin: str) -> None:
        turn = self._find_open_turn()
        if turn is None or turn.content is not None or turn.tool_calls:
            self.add_message(Message(role="assistant", content=item.content), origin)
        else:
            self._replace_last(content=item.content)
            self.origins[-1] = origin

    def _add_reasoning(self, item: InputItem, origin: str) -> None:
        content = [Part("reasoning_text", text=item.content)] if isinstance(item.content, str) else item.content
        text = "\n\n".join(part.text for part in content or item.summary or () if part.text)
        if text:
            self.add_message(Message(role="assistant", reasoning_content=text), origin)
        elif item.encrypted_content:
            message = f"'{origin}.encrypted_content' was encrypted by another server: send 'content' or 'summary'."
            raise UnsupportedParameter(message, param=f"{origin}.encrypted_content")

    def _find_open_turn(self) -> Message | None:
        return self.messages[-1] if self.messages and self.messages[-1].role == "assistant" else None

    def _replace_last(self, **fields: Any) -> None:
        self.messages[-1] = msgspec.structs.replace(self.messages[-1], **fields)


def _make_parts(message: Message) -> list[Part]:
    return [Part("text", text=message.content)] if isinstance(message.content, str) else list(message.content or [])
