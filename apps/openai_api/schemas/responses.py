"""The body of POST /v1/responses: decoded, checked, and turned into a GenerationRequest.

https://platform.openai.com/docs/api-reference/responses/create and https://www.openresponses.org. What was said before
is handed in by who can read it: nothing here asks the database.
"""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, ServiceError
from apps.core.ids import new_response_id
from apps.inference.requests import GenerationRequest
from apps.mcp.plan import Plan
from apps.openai_api.parameters import RESPONSES_NEUTRAL, check_fields
from apps.openai_api.schemas.chat import read_model
from apps.openai_api.schemas.custom_tools import ToolOrigin, rename_tool
from apps.openai_api.schemas.fields import Count, SamplingFields, check_token_limits, decode_body
from apps.openai_api.schemas.metadata import Metadata
from apps.openai_api.schemas.responses_fields import ReasoningFields, TextFields
from apps.openai_api.schemas.responses_shape import Conversation, InputItem, convert_input, rename_field
from apps.openai_api.schemas.responses_tools import (
    OfferedTools,
    ResponsesTool,
    check_choice,
    flatten_choice,
    join_choice,
    read_tools,
)
from apps.openai_api.schemas.tool_choice import ToolChoice, Tools, read_tool_choice

LOGPROBS = "message.output_text.logprobs"
# The others name output of tools that this server does not run, and reasoning that is encrypted: here it is readable.
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
]
# How the rest of the system calls what this endpoint calls otherwise.
_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "enable_thinking": "reasoning.effort",
}


class ConversationName(Struct, frozen=True, forbid_unknown_fields=True):
    """The other form of its id."""

    id: str


class ResponsesBody(SamplingFields, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    model: str | None = None
    input: str | list[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextFields | None = None
    reasoning: ReasoningFields | None = None
    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[Include] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Metadata | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


HONOURED = frozenset(ResponsesBody.__struct_fields__) - {"max_tokens"}
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(ResponsesBody)


class ResponsesCall(NamedTuple):
    """A valid body. `request` lacks its messages: what was said before is not known yet."""

    request: GenerationRequest
    body: ResponsesBody
    given: str | list[InputItem]
    tools: OfferedTools
    raw_input: bytes  # as it was sent, to be kept
    references: list[str]  # ids of items that the input names instead of repeating them

    @property
    def is_stored(self) -> bool:
        """Unless the client wants it otherwise."""
        return self.body.store is not False

    @property
    def history_origin(self) -> str:
        """The field that what was said before comes from."""
        return "previous_response_id" if self.body.conversation is None else "conversation"

    @property
    def conversation_id(self) -> str | None:
        """The conversation to go on from and to add to."""
        given = self.body.conversation
        return given.id if isinstance(given, ConversationName) else given


class PreparedCall(NamedTuple):
    """The whole request, and where in the body each of its messages comes from."""

    request: GenerationRequest
    conversation: Conversation
    tool_origins: list[ToolOrigin]
    plan: Plan | None = None  # where servers of tools are named

    def rename(self, error: ServiceError) -> None:
        """Have the error call fields by the names that they have at this endpoint."""
        self.conversation.rename(error)
        if rename_tool(error, self.tool_origins):
            return
        if self.plan is not None and (error.param or "").startswith("tools["):
            error.param = "tools"  # a tool that an MCP server has described
        rename_field(error, _NAMES)


def parse_response(body: bytes, caller: Caller) -> ResponsesCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`. Pure: what exists is asked later."""
    raw = decode_body(_raw_decoder, body)
    response = decode_body(_decoder, body)
    check_fields(raw, HONOURED, RESPONSES_NEUTRAL)
    response = msgspec.structs.replace(response, tool_choice=flatten_choice(response.tool_choice))
    if response.input is None:
        raise InvalidRequest("'input' is required.", param="input")
    (response.reasoning or ReasoningFields()).check()
    _check_state(response)
    offered = read_tools(response.tools)
    check_choice(response.tool_choice, offered.names)
    tools, tool_choice = _read_choice(response.tool_choice, offered)
    request = GenerationRequest(
        id=new_response_id(),
        caller=caller,
        model=read_model(response.model),
        endpoint="responses",
        kind="chat",
        sampling=_read_sampling(response),
        stream=bool(response.stream),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=response.parallel_tool_calls is not False,
        reasoning_effort=response.reasoning.effort if response.reasoning else None,
        structure=(response.text or TextFields()).to_structure(),
    )
    items = [] if isinstance(response.input, str) else response.input
    references = [_read_reference(item, index) for index, item in enumerate(items) if item.type == "item_reference"]
    return ResponsesCall(request, response, response.input, offered, bytes(raw["input"]), references)


def prepare(call: ResponsesCall, history: list[InputItem], referenced: dict[str, InputItem]) -> PreparedCall:
    """With what was said before, and the items that the input names. Raises InvalidRequest."""
    given = call.given
    if not isinstance(given, str):
        given = [referenced[item.id or ""] if item.type == "item_reference" else item for item in given]
    conversation = convert_input(given, call.body.instructions, history, call.history_origin)
    request = msgspec.structs.replace(call.request, messages=conversation.convert())
    shown = {tool["function"]["name"] for tool in call.request.tools or []}
    named = zip(call.tools.names, call.tools.origins, strict=True)
    return PreparedCall(request, conversation, [origin for name, origin in named if name in shown])


def _read_choice(choice: str | dict[str, Any] | None, offered: OfferedTools) -> tuple[Tools | None, ToolChoice | None]:
    """Where servers of tools are named, their tools have to be known first."""
    if offered.servers and (isinstance(choice, dict) or choice == "required"):
        return offered.functions, None
    return read_tool_choice(join_choice(choice), offered.functions)


def _read_sampling(body: ResponsesBody) -> dict[str, Any]:
    sampling = body.to_sampling()
    if body.max_output_tokens is not None:
        sampling["max_tokens"] = body.max_output_tokens
    check_token_limits(sampling)
    if body.top_logprobs or LOGPROBS in (body.include or ()):
        sampling["top_logprobs"] = body.top_logprobs or 0
    return sampling


def _check_state(body: ResponsesBody) -> None:
    if body.conversation is not None and body.previous_response_id is not None:
        message = "'previous_response_id' cannot be combined with 'conversation'."
        raise InvalidRequest(message, param="previous_response_id")
    if body.background and body.store is False:
        raise InvalidRequest("'store': a background response has to be kept.", param="store")


def _read_reference(item: InputItem, index: int) -> str:
    if not item.id:
        raise InvalidRequest(f"'input[{index}].id' is required.", param=f"input[{index}].id")
    return item.id
