"""The bodies of POST /tokenize and POST /detokenize, as vLLM has them: decoded and checked.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#tokenizer-api
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest
from apps.core.ids import new_id
from apps.inference.requests import GenerationRequest
from apps.openai_api.parameters import check_fields
from apps.openai_api.schemas.anthropic_parts import find_conversation
from apps.openai_api.schemas.chat import ReasoningEffort, read_model, read_template_kwargs
from apps.openai_api.schemas.chat_tools import ChatTool, read_chat_tools
from apps.openai_api.schemas.fields import TokenIds, decode_body
from apps.openai_api.schemas.messages import Message, convert_messages

NEUTRAL: dict[str, tuple[Any, ...]] = {"chat_template": (), "mm_processor_kwargs": ({},), "media_io_kwargs": ({},)}


class TokenizeBody(Struct, frozen=True, kw_only=True):
    """Either `prompt`, or `messages` with what belongs to them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_effort: ReasoningEffort | None = None


class DetokenizeBody(Struct, frozen=True, kw_only=True):
    """Tokens of a model."""

    tokens: TokenIds
    model: str | None = None


HONOURED = frozenset(TokenizeBody.__struct_fields__)
DETOKENIZE_HONOURED = frozenset(DetokenizeBody.__struct_fields__)
_OF_MESSAGES = sorted(HONOURED - {"model", "prompt", "messages", "add_special_tokens", "return_token_strs"})
_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder = msgspec.json.Decoder(TokenizeBody)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeBody)


class TokenizeCall(NamedTuple):
    """A valid request, and what is to be said of its prompt."""

    request: GenerationRequest
    add_special_tokens: bool
    add_generation_prompt: bool
    with_strings: bool


class DetokenizeCall(NamedTuple):
    """A valid request."""

    model: str
    token_ids: list[int]


def parse_tokenize(body: bytes, caller: Caller) -> TokenizeCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`."""
    raw = decode_body(_raw_decoder, body)
    given = decode_body(_decoder, body)
    check_fields(raw, HONOURED, NEUTRAL)
    if (given.prompt is None) == (given.messages is None):
        raise InvalidRequest("Send either 'prompt' or 'messages'.", param="prompt")
    return TokenizeCall(
        _read_prompt(given, caller) if given.messages is None else _read_messages(given, given.messages, caller),
        add_special_tokens=given.add_special_tokens is not False,
        add_generation_prompt=given.add_generation_prompt is not False,
        with_strings=bool(given.return_token_strs),
    )


def parse_detokenize(body: bytes) -> DetokenizeCall:
    """Raises InvalidRequest or UnsupportedParameter with `param`."""
    raw = decode_body(_raw_decoder, body)
    given = decode_body(_detokenize_decoder, body)
    check_fields(raw, DETOKENIZE_HONOURED, {})
    return DetokenizeCall(read_model(given.model), given.tokens)


def _read_prompt(given: TokenizeBody, caller: Caller) -> GenerationRequest:
    for name in _OF_MESSAGES:
        if getattr(given, name) is not None:
            raise InvalidRequest(f"'{name}' belongs to 'messages'.", param=name)
    return GenerationRequest(
        id=new_id("tok-"),
        caller=caller,
        model=read_model(given.model),
        endpoint="tokenize",
        kind="completion",
        prompt=given.prompt,
    )


def _read_messages(given: TokenizeBody, messages: list[Message], caller: Caller) -> GenerationRequest:
    if given.add_special_tokens:
        message = "'add_special_tokens' belongs to 'prompt': for messages the chat template writes them."
        raise InvalidRequest(message, param="add_special_tokens")
    if given.continue_final_message and given.add_generation_prompt:
        message = "'add_generation_prompt' cannot be combined with 'continue_final_message'."
        raise InvalidRequest(message, param="add_generation_prompt")
    tools = read_chat_tools(given.tools, given.tool_choice)
    conversation = find_conversation(messages)
    return GenerationRequest(
        id=new_id("tok-"),
        caller=caller,
        model=read_model(given.model),
        endpoint="tokenize",
        kind="chat",
        messages=conversation.convert() if conversation else convert_messages(messages),
        tools=tools.functions,
        tool_choice=tools.choice,
        chat_template_kwargs=read_template_kwargs(given.chat_template_kwargs),
        continue_final_message=bool(given.continue_final_message),
        enable_thinking=given.enable_thinking,
        reasoning_effort=given.reasoning_effort,
    )
