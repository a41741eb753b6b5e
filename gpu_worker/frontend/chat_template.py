"""Chat messages to prompt text by the model's own chat template. Knows nothing of token ids or engines.

Templates differ in what they take: what can be asked of the template itself is found out once, at load,
by rendering small conversations.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jinja2

from gpu_worker.frontend.control_tokens import ControlTokens
from gpu_worker.frontend.errors import invalid, unsupported
from gpu_worker.frontend.history import (
    PROBE,
    find_history_shape,
    join_late_system,
    takes_late_system,
    takes_system_tools,
    takes_tools,
)
from gpu_worker.frontend.messages import Message, find_media, read_messages, read_tools
from gpu_worker.frontend.parsers import NO_NAMES, ParserNames, choose_parsers
from gpu_worker.frontend.pictures import MediaRef
from gpu_worker.frontend.reasoning import ReasoningSwitch, ReasoningWish

logger = logging.getLogger(__name__)

# What the prompt ends with: what opens an answer, the beginning of one (its final message), the conversation as it is.
PromptEnding = Literal["answer", "continued", "none"]

# Names that apply_chat_template takes itself; chat_template_kwargs are variables of the template and nothing else.
_RESERVED_KWARGS = frozenset(
    [
        *("conversation", "conversations", "messages", "tools", "documents", "chat_template", "tokenize", "padding"),
        *("add_generation_prompt", "continue_final_message", "sanitize_control_tokens", "truncation", "max_length"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    ]
)
# What a template can raise on data it was not written for, beside its own raise_exception.
_RENDER_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class RenderedPrompt(NamedTuple):
    """The prompt, and the beginning of the answer that the client gave itself (continue_final_message).

    The pieces are to be tokenized one by one: between two lies a control token that the client wrote, cut in two.
    """

    pieces: list[str]
    continued: str = ""
    media: tuple[MediaRef, ...] = ()  # in the order of the tokens that stand for them

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ChatTemplate:
    """Renders prompts for one model. Thread-safe after construction."""

    def __init__(
        self,
        tokenizer: Any,
        template: str | None = None,
        media_tokens: Mapping[str, str] | None = None,
        parsers: ParserNames = NO_NAMES,
    ) -> None:
        """`template` replaces the tokenizer's own; `media_tokens` are what it should write for an "image" and an
        "audio"; the parsers are chosen by what it says unless they are named.

        Raises ValueError for a parser that is not there.
        """
        if template is not None:
            tokenizer.chat_template = template
        self._tokenizer = tokenizer
        self.source = _find_source(tokenizer)
        self._control_tokens = ControlTokens(tokenizer, self.source)
        self.takes_tools = takes_tools(self._try_render) or takes_system_tools(self._try_render)
        self.reasoning_parser, known = choose_parsers(
            self.source,
            {str(token.content) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()},
            getattr(tokenizer, "response_template", None),
            parsers,
        )
        self.tool_call_parser = known if self.takes_tools else None
        self._reasoning = ReasoningSwitch(self.source, self.reasoning_parser, self._try_render)
        self.takes = frozenset(kind for kind, token in (media_tokens or {}).items() if self._probe_media(kind, token))
        self._developer_role = "developer" in self.source
        self._wants_parts = self._probe_parts()
        self._takes_late_system = takes_late_system(self._try_render)
        self._history = find_history_shape(
            self._try_render,
            has_system_tools=self.takes_tools and not takes_tools(self._try_render),
            write_calls=known.write_calls if known is not None else None,
        )

    def render(
        self,
        messages: Any,
        *,
        tools: Any = None,
        template_kwargs: dict[str, Any] | None = None,
        ending: PromptEnding = "answer",
        reasoning: ReasoningWish | None = None,
    ) -> RenderedPrompt:
        """The prompt, up to where the model is to go on. Blocking: takes milliseconds on long conversations.

        Raises RequestRejected, with the template's own words where it refuses a conversation.
        """
        if not self.source:
            raise unsupported(
                "This model has no chat template, so it cannot take messages. Use the completions endpoint, "
                "or ask an administrator to set a chat template for this model.",
                "messages",
            )
        chat = read_messages(messages, developer_role=self._developer_role, takes=self.takes)
        if not self._takes_late_system:
            chat = join_late_system(chat)
        offered = self._read_tools(tools)
        continues = ending == "continued"
        plan = self._reasoning.plan(
            reasoning or ReasoningWish(), _check_kwargs(template_kwargs or {}), continues=continues
        )
        if continues and (chat[-1]["role"] != "assistant" or not chat[-1]["content"]):
            raise invalid("continue_final_message needs a final message of the assistant that has content.", "messages")
        continued = chat[-1]["content"] if continues else ""
        cut = self._control_tokens.cut(chat, offered, plan.template_kwargs)
        try:
            text = self._apply(
                cut.messages,
                tools=cut.tools,
                continue_final_message=continues,
                add_generation_prompt=ending == "answer",
                **cut.template_kwargs,
            )
        except jinja2.TemplateError as error:
            reason = "".join(cut.split(error.message or ""))
            raise invalid(f"The model's chat template refuses these messages: {reason}", "messages") from error
        except _RENDER_ERRORS as error:
            logger.info("the chat template failed: %s", type(error).__name__)
            raise invalid("The model's chat template cannot render these messages.", "messages") from error
        if ending != "none":
            text = plan.finish(text)
        return RenderedPrompt(cut.split(text), continued, tuple(find_media(messages)))

    def _read_tools(self, tools: Any) -> list[dict[str, Any]] | None:
        if not tools:
            return None
        offered = read_tools(tools)
        if not self.takes_tools:
            raise unsupported("This model's chat template does not take tools.", "tools")
        if self.tool_call_parser is None:
            raise unsupported("The form in which this model writes tool calls is not known.", "tools")
        return offered

    def _apply(self, chat: list[Message], *, tools: list[dict[str, Any]] | None, **kwargs: Any) -> str:
        shaped = self._history.shape(chat, tools)
        if self._wants_parts:
            shaped = [_with_parts(message) for message in shaped]
        offered = None if self._history.has_system_tools else tools
        return str(self._tokenizer.apply_chat_template(shaped, tools=offered, tokenize=False, **kwargs))

    def _probe_parts(self) -> bool:
        """Whether the template loses plain text and shows the same text as a list of parts."""
        as_text = self._try_render([{"role": "user", "content": PROBE}])
        as_parts = self._try_render([{"role": "user", "content": [{"type": "text", "text": PROBE}]}])
        return PROBE not in as_text and PROBE in as_parts

    def _probe_media(self, kind: str, token: str) -> bool:
        """Whether a picture or a recording shows in the prompt as its token, and the text beside it as text."""
        text = self._try_render([{"role": "user", "content": [{"type": kind}, {"type": "text", "text": PROBE}]}])
        return text.count(token) == 1 and PROBE in text

    def _try_render(self, chat: list[Message], **kwargs: Any) -> str:
        if not self.source:
            return ""
        try:
            return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **kwargs))
        except (jinja2.TemplateError, *_RENDER_ERRORS):
            return ""


def _find_source(tokenizer: Any) -> str:
    """The text of the template; of several named ones the one used with tools, which knows most."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return str(template.get("tool_use") or template.get("default") or "")
    return template or ""


def _check_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name in _RESERVED_KWARGS or not name.isidentifier():
            raise invalid(f"'{name}' is not a variable of a chat template.", f"chat_template_kwargs.{name}")
    return kwargs


def _with_parts(message: Message) -> Message:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
