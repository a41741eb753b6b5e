"""The bodies of POST /v1/messages and /v1/messages/count_tokens: decoded, checked, made a GenerationRequest.

https://docs.anthropic.com/en/api/messages
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct

from apps.accounts.caller import Caller
from apps.anthropic_api.parameters import BOOKKEEPING, NEUTRAL, UNCOUNTED
from apps.anthropic_api.schemas.blocks import Block, MessagesTool, Thinking, ToolChoice, Turn
from apps.anthropic_api.schemas.conversation import Conversation, convert_turns
from apps.anthropic_api.schemas.tools import read_choice, read_tools
from apps.core.errors import InvalidRequest, ServiceError
from apps.core.ids import new_id
from apps.inference.requests import GenerationRequest
from apps.openai_api.parameters import check_fields
from apps.openai_api.schemas.chat import read_model
from apps.openai_api.schemas.fields import MAX_COUNT, Count, StopStrings, decode_body
from apps.openai_api.schemas.responses_shape import rename_field
from apps.openai_api.schemas.structure import NULL, ResponseFormat, make_null, read_response_format
from gpu_worker.protocol import ReasoningSetting, Structure

# What Anthropic's models do when nothing is said of thinking, or when it is theirs to decide.
_DEFAULT_REASONING: dict[str | None, ReasoningSetting] = {None: "off", "adaptive": "on"}
_NEUTRAL_EFFORT = "high"  # Anthropic: the same as saying nothing
# The worker's names of fields -> those of this API.
_NAMES = {
    "enable_thinking": "thinking.type",
    "thinking_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
}
_FUNCTION = re.compile(r"(tools\[\d+\])\.function(\.parameters)?")


class OutputFormat(Struct, frozen=True):
    """A JSON schema that the answer has to follow."""

    type: Literal["json_schema"]
    schema: Raw = msgspec.field(default_factory=make_null)


class OutputConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How the answer is to be."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class PromptFields(Struct, frozen=True, kw_only=True):
    """What the prompt is made of."""

    messages: list[Turn]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # an older place for output_config.format


class MessagesBody(PromptFields, frozen=True, kw_only=True):
    """The honoured fields. The others are in `parameters.py`."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: StopStrings | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=MAX_COUNT)] | None = None


HONOURED = frozenset(MessagesBody.__struct_fields__)
COUNT_HONOURED = frozenset(PromptFields.__struct_fields__)
_raw_decoder = msgspec.json.Decoder(dict[str, Raw])
_decoder = msgspec.json.Decoder(MessagesBody)
_count_decoder = msgspec.json.Decoder(PromptFields)


class MessagesCall(NamedTuple):
    """A valid request and how its answer is to be written."""

    request: GenerationRequest
    conversation: Conversation
    shows_thinking: bool

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors that are raised within call fields as this API does."""
        try:
            yield
        except ServiceError as error:
            self.conversation.rename(error)
            rename_field(error, _NAMES)
            error.param = error.param and _FUNCTION.sub(_name_schema, error.param)
            error.message = _FUNCTION.sub(_name_schema, error.message)
            raise


def _name_schema(place: re.Match[str]) -> str:
    return place[1] + (".input_schema" if place[2] else "")


def parse_messages(body: bytes, caller: Caller) -> MessagesCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`."""
    raw = decode_body(_raw_decoder, body)
    given = decode_body(_decoder, body)
    check_fields(raw, HONOURED, NEUTRAL, BOOKKEEPING)
    named = ("max_tokens", "temperature", "top_p", "top_k")
    sampling: dict[str, Any] = {name: value for name in named if (value := getattr(given, name)) is not None}
    if given.stop_sequences:
        sampling["stop"] = tuple(given.stop_sequences)
    return _make_call(given, caller, sampling=sampling, stream=bool(given.stream))


def parse_count(body: bytes, caller: Caller) -> MessagesCall:
    """As `parse_messages`, of the fields that make the prompt; the others may be there."""
    raw = decode_body(_raw_decoder, body)
    given = decode_body(_count_decoder, body)
    check_fields(raw, COUNT_HONOURED, NEUTRAL, BOOKKEEPING | UNCOUNTED)
    return _make_call(given, caller)


def _make_call(given: PromptFields, caller: Caller, **fields: Any) -> MessagesCall:
    conversation = convert_turns(given.system, given.messages)
    choice, thinking, output = given.tool_choice, given.thinking, given.output_config or OutputConfig()
    tools, tool_choice = read_choice(choice, read_tools(given.tools))
    kind = thinking.type if thinking else None
    request = GenerationRequest(
        id=new_id("msg_"),
        caller=caller,
        model=read_model(given.model),
        endpoint="messages",
        kind="chat",
        messages=conversation.messages,
        continue_final_message=conversation.continues,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        enable_thinking={"enabled": True, "disabled": False}.get(kind or ""),
        thinking_budget=thinking.budget_tokens if thinking else None,
        default_reasoning=_DEFAULT_REASONING.get(kind, "auto"),
        reasoning_effort=output.effort,
        neutral_effort=_NEUTRAL_EFFORT,
        structure=_read_structure(given, output),
        **fields,
    )
    return MessagesCall(request, conversation, shows_thinking=not (thinking and thinking.display == "omitted"))


def _read_structure(given: PromptFields, output: OutputConfig) -> Structure | None:
    if output.format is not None and given.output_format is not None:
        raise InvalidRequest("'output_format' is an older place for 'output_config.format'.", param="output_format")
    asked, param = output.format or given.output_format, "output_config.format" if output.format else "output_format"
    if asked is None:
        return None
    if asked.schema == NULL:
        raise InvalidRequest(f"'{param}.schema' is required.", param=f"{param}.schema")
    return read_response_format(ResponseFormat(asked.type, schema=asked.schema), param)
