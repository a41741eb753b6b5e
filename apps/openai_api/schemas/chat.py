"""The body of POST /v1/chat/completions: decoded, checked, and turned into a GenerationRequest.

https://platform.openai.com/docs/api-reference/chat/create, with the extensions of vLLM and transformers serve.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import msgspec
from django.conf import settings
from msgspec import Meta

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, ServiceError, UnsupportedParameter
from apps.core.ids import new_chat_completion_id
from apps.inference.requests import GenerationRequest
from apps.openai_api.parameters import CHAT_NEUTRAL, check_fields
from apps.openai_api.schemas.anthropic_parts import find_conversation
from apps.openai_api.schemas.chat_tools import ChatTool, ChatTools, read_chat_tools
from apps.openai_api.schemas.custom_tools import ToolOrigin, rename_tool
from apps.openai_api.schemas.fields import Count, StreamOptions, check_token_limits, decode_body
from apps.openai_api.schemas.generation_config import read_generation_config
from apps.openai_api.schemas.mcp_tools import MAX_SERVERS
from apps.openai_api.schemas.messages import Message, convert_messages
from apps.openai_api.schemas.responses_fields import ReasoningEffort, ReasoningFields, TextFields
from apps.openai_api.schemas.responses_shape import Conversation, InputItem, convert_input, rename_field
from apps.openai_api.schemas.responses_tools import flatten_choice, join_choice
from apps.openai_api.schemas.structure import StructureFields
from apps.openai_api.schemas.tool_choice import ToolChoice, translate_choice
from gpu_worker.protocol import Structure

# What the template's caller sets itself: a request may not put its own under these names.
_RESERVED_TEMPLATE_KWARGS = frozenset(
    [
        "messages",
        "conversation",
        "tools",
        "chat_template",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "return_dict",
        "return_tensors",
        "tokenizer_kwargs",
        "padding",
        "truncation",
        "max_length",
    ]
)


class ChatBody(StructureFields, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    model: str | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    generation_config: str | dict[str, Any] | None = None
    # The shape of the Responses API, which Cursor posts here at times.
    input: str | list[InputItem] | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    reasoning: ReasoningFields | None = None
    text: TextFields | None = None
    mcp_servers: list[str] | None = None


HONOURED = frozenset(ChatBody.__struct_fields__)
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(ChatBody)


class ChatCall(NamedTuple):
    """A valid request and how its answer is to be written."""

    request: GenerationRequest
    include_usage: bool
    is_resumable: bool = False
    conversation: Conversation | None = None  # of a body in the shape of another API
    mcp_servers: list[str] = []  # registered ones, whose tools the model may call
    mcp_choice: ToolChoice | None = None  # among their tools too, which are not known yet
    names: dict[str, str] = {}  # how this body calls what the rest of the system calls otherwise
    customs: frozenset[str] = frozenset()  # names of custom tools
    tool_origins: list[ToolOrigin] = []

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors that are raised within are renamed."""
        try:
            yield
        except ServiceError as error:
            self.rename(error)
            raise

    def rename(self, error: ServiceError) -> None:
        """Have the error call fields as the body does."""
        if self.conversation is not None:
            self.conversation.rename(error)
        if not rename_tool(error, self.tool_origins):
            rename_field(error, self.names)


def parse_chat(body: bytes, caller: Caller) -> ChatCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`. Pure: which models exist is asked later."""
    raw = decode_body(_raw_decoder, body)
    chat = decode_body(_decoder, body)
    _check_template_fields(raw, chat)
    check_fields(raw, HONOURED, CHAT_NEUTRAL)
    tools = _read_tools(chat)
    conversation = _read_input(chat) or find_conversation(chat.messages or [])
    options = chat.stream_options
    return ChatCall(
        GenerationRequest(
            id=new_chat_completion_id(),
            caller=caller,
            model=read_model(chat.model),
            endpoint="chat.completions",
            kind="chat",
            messages=conversation.convert() if conversation else _read_messages(chat),
            sampling=_read_sampling(chat),
            n=chat.n or 1,
            stream=bool(chat.stream),
            tools=tools.functions,
            tool_choice=tools.choice,
            parallel_tool_calls=chat.parallel_tool_calls is not False,
            chat_template_kwargs=read_template_kwargs(chat.chat_template_kwargs),
            continue_final_message=bool(chat.continue_final_message),
            enable_thinking=chat.enable_thinking,
            reasoning_effort=_read_effort(chat),
            structure=_read_structure(chat),
        ),
        include_usage=bool(options and options.include_usage),
        is_resumable=bool(chat.stream and options and options.resumable),
        conversation=conversation,
        mcp_servers=chat.mcp_servers or [],
        mcp_choice=join_choice(flatten_choice(translate_choice(chat.tool_choice))) if chat.mcp_servers else None,
        names=_find_names(chat),
        customs=tools.customs,
        tool_origins=tools.origins,
    )


def read_model(given: str | None) -> str:
    """The model's name; the forced one where none is given and the server has one."""
    model = given or settings.FORCE_MODEL
    if not model:
        raise InvalidRequest("You must name a model in 'model'. GET /v1/models lists yours.", param="model")
    return model


def _read_tools(chat: ChatBody) -> ChatTools:
    """Where servers of tools are named, a choice has to wait until their tools are known."""
    if not chat.mcp_servers:
        return read_chat_tools(chat.tools, chat.tool_choice)
    if (chat.n or 1) > 1:
        raise UnsupportedParameter("'n' can be 1 here: tools of 'mcp_servers' are called for one choice.", param="n")
    if len(chat.mcp_servers) > MAX_SERVERS:
        raise InvalidRequest(f"'mcp_servers' may name {MAX_SERVERS}.", param="mcp_servers")
    return read_chat_tools(chat.tools, None)


def _read_messages(chat: ChatBody) -> list[dict[str, Any]]:
    if chat.messages is None:
        raise InvalidRequest("'messages' is required.", param="messages")
    return convert_messages(chat.messages)


def _read_input(chat: ChatBody) -> Conversation | None:
    """The shape of the Responses API, where the body has it."""
    if chat.input is None and chat.instructions is None:
        return None
    if chat.messages is not None:
        raise InvalidRequest("Send either 'messages' or 'input' with 'instructions'.", param="input")
    if chat.input is None:
        raise InvalidRequest("'messages' is required.", param="messages")
    return convert_input(chat.input, chat.instructions)


def _read_effort(chat: ChatBody) -> ReasoningEffort | None:
    reasoning = chat.reasoning or ReasoningFields()
    reasoning.check()
    if None not in (reasoning.effort, chat.reasoning_effort) and reasoning.effort != chat.reasoning_effort:
        raise InvalidRequest("'reasoning.effort' and 'reasoning_effort' differ.", param="reasoning.effort")
    return chat.reasoning_effort or reasoning.effort


def _find_names(chat: ChatBody) -> dict[str, str]:
    names = {} if chat.input is None else {"messages": "input"}
    if chat.reasoning_effort is None and chat.reasoning is not None:
        names["reasoning_effort"] = names["enable_thinking"] = "reasoning.effort"
    return names


def _read_structure(chat: ChatBody) -> Structure | None:
    structure, form = chat.to_structure(), (chat.text or TextFields()).to_structure()
    if structure and form:
        raise InvalidRequest(f"'text.format' cannot be combined with '{structure.param}'.", param="text.format")
    return structure or form


def _read_sampling(chat: ChatBody) -> dict[str, Any]:
    sampling = read_generation_config(chat.generation_config) if chat.generation_config else {}
    sampling |= chat.to_sampling()
    max_tokens = chat.max_completion_tokens or chat.max_output_tokens
    if max_tokens is not None:
        sampling["max_tokens"] = max_tokens
    check_token_limits(sampling)
    if chat.logprobs:
        sampling["top_logprobs"] = chat.top_logprobs or 0
    elif chat.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    return sampling


def read_template_kwargs(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """None for none. Raises InvalidRequest for those that the server sets itself."""
    kwargs = given or {}
    if reserved := sorted(_RESERVED_TEMPLATE_KWARGS & kwargs.keys()):
        param = f"chat_template_kwargs.{reserved[0]}"
        raise InvalidRequest(f"'{param}' is set by the server.", param=param)
    return kwargs or None


def _check_template_fields(raw: dict[str, msgspec.Raw], chat: ChatBody) -> None:
    # vLLM's clients send add_generation_prompt=false together with continue_final_message=true: it says the same.
    if chat.continue_final_message:
        raw.pop("add_generation_prompt", None)
