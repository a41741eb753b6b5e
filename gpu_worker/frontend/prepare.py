"""A `Generate` message to what an engine needs: prompt tokens, limits, and an answer stream for each choice.

Past this file only valid requests exist. Blocking (templates and tokenization): runs in a thread pool.
Knows nothing of connections and does not start anything.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from gpu_worker.engine.grammar import GrammarState
from gpu_worker.engine.media import Media
from gpu_worker.frontend.answer import AnswerStream, EndRules
from gpu_worker.frontend.chat_template import ChatTemplate, PromptEnding, RenderedPrompt
from gpu_worker.frontend.detokenize import build_detokenizer
from gpu_worker.frontend.errors import RequestRejected, check_text, invalid, unsupported
from gpu_worker.frontend.fill_in import FillIn
from gpu_worker.frontend.grammars import GrammarCompiler, build_vocabulary
from gpu_worker.frontend.media import MediaReader
from gpu_worker.frontend.parsers import NO_NAMES, ParserNames
from gpu_worker.frontend.reasoning import ReasoningWish
from gpu_worker.frontend.sampling import check_sampling, check_token_ids
from gpu_worker.frontend.stop import StopMatcher
from gpu_worker.frontend.structure import StructureBuilder, allows_tools
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import FinishReason, Generate, ResumeChoice


@dataclass(frozen=True)
class Limits:
    """What the model's weights and cache allow."""

    max_model_len: int  # tokens, prompt and answer together
    vocab_size: int
    eos_token_ids: frozenset[int] = frozenset()


class PreparedChoice(NamedTuple):
    """One choice about to start. `token_ids` were sent before (resume); `finish_reason` is set if they end it."""

    stream: AnswerStream
    token_ids: list[int]
    finish_reason: FinishReason | None
    grammar: GrammarState | None = None


@dataclass(frozen=True)
class PreparedRequest:
    """A request that is valid for this model."""

    prompt_token_ids: list[int]
    max_tokens: int  # resolved: at least 0 and within the context
    echo_text: str  # the prompt's own text, where it was asked for
    eos_token_ids: frozenset[int]  # empty when the request ignores them
    ends_by_text: bool  # whether the text can end a choice, so that the engine has to ask after every token
    choices: list[PreparedChoice]
    tokenizer: TextTokenizer
    media: Media | None = None
    prompt_logprobs: int | None = None  # of an echoed prompt


class Frontend:
    """Tokenizer, chat template and processor of one model. Thread-safe."""

    def __init__(
        self,
        tokenizer: Any,
        limits: Limits,
        chat_template: str | None = None,
        media: MediaReader | None = None,
        parsers: ParserNames = NO_NAMES,
    ) -> None:
        """Raises ValueError for a parser that this model does not have."""
        self.tokenizer = TextTokenizer(tokenizer)
        self.media = media
        self._fill_in = FillIn(self.tokenizer, limits.vocab_size)
        self.template = ChatTemplate(
            tokenizer,
            chat_template,
            media.tokens if media is not None else None,
            parsers,
        )
        self.limits = limits
        chosen = (self.template.reasoning_parser, self.template.tool_call_parser)
        markers = tuple(marker for parser in chosen if parser is not None for marker in parser.markers)
        self._visible_ids = self.tokenizer.find_added_tokens(markers)
        self._structures = StructureBuilder(
            self.template,
            GrammarCompiler(
                build_vocabulary(self.tokenizer, limits.vocab_size, limits.eos_token_ids, self._visible_ids)
            ),
            self.tokenizer,
        )

    def prepare(self, request: Generate) -> PreparedRequest:
        """Raises RequestRejected, which says everything the client may know."""
        check_sampling(request, self.limits.vocab_size)
        offers_tools = bool(request.tools) and allows_tools(request.tool_choice)
        rendered = self._render(request, offers_tools)
        grammar = self._structures.build(request, rendered)
        prompt, media = self._tokenize(request, rendered)
        max_tokens = self._resolve_max_tokens(request, len(prompt))
        eos_token_ids = self._find_ends(request)
        rules = EndRules(
            end_token_ids=eos_token_ids,
            stop_token_ids=frozenset(request.sampling.stop_token_ids),
            min_tokens=request.sampling.min_tokens,
            single_call=offers_tools and not request.parallel_tool_calls,
        )
        prompt_logprobs = request.sampling.top_logprobs if request.echo else None
        resumed = self._read_resume(request, max_tokens)
        return PreparedRequest(
            prompt_token_ids=prompt,
            max_tokens=max_tokens,
            echo_text=self._find_echo_text(request),
            eos_token_ids=eos_token_ids,
            ends_by_text=bool(request.sampling.stop) or rules.single_call,
            choices=[
                _replay(
                    self._build_stream(request, rendered, rules, offers_tools=offers_tools),
                    resumed.get(index, []),
                    max_tokens if prompt_logprobs is None else max(max_tokens, 1),
                    grammar,
                )
                for index in range(request.n)
            ],
            tokenizer=self.tokenizer,
            media=media,
            prompt_logprobs=prompt_logprobs,
        )

    def read_prompt(self, request: Generate, *, add_generation_prompt: bool = True) -> list[int]:
        """The tokens of the prompt alone, however many. Raises RequestRejected."""
        ending: PromptEnding | None = None if add_generation_prompt else "none"
        offers_tools = bool(request.tools) and allows_tools(request.tool_choice)
        return self._tokenize(request, self._render(request, offers_tools, ending))[0]

    def _render(
        self, request: Generate, offers_tools: bool, ending: PromptEnding | None = None
    ) -> RenderedPrompt | None:
        if request.kind != "chat":
            return None
        return self.template.render(
            request.messages,
            tools=request.tools if offers_tools else None,
            template_kwargs=request.chat_template_kwargs,
            ending=ending or ("continued" if request.continue_final_message else "answer"),
            reasoning=ReasoningWish(
                request.enable_thinking, request.reasoning_effort, request.reasoning, request.neutral_effort
            ),
        )

    def _tokenize(self, request: Generate, rendered: RenderedPrompt | None) -> tuple[list[int], Media | None]:
        prompt = request.prompt
        if rendered is not None:
            check_text(rendered.text, "messages")
            if rendered.media and self.media is not None:
                return self.media.read(rendered.pieces, rendered.media, request.media or {})
            # the template has written the special tokens itself
            pieces = (self.tokenizer.encode(piece, add_special_tokens=False) for piece in rendered.pieces)
            token_ids = self.media.find_prefix(rendered.text) if self.media is not None else []
            token_ids += [token_id for piece in pieces for token_id in piece]
        elif request.suffix:
            token_ids = self._fill_gap(prompt, request.suffix)
        elif isinstance(prompt, str):
            token_ids = self.tokenizer.encode(check_text(prompt, "prompt"), add_special_tokens=True)
        else:
            token_ids = prompt or []
            check_token_ids(token_ids, self.limits.vocab_size, "prompt")
        if not token_ids:
            raise invalid("The prompt must not be empty.", _prompt_param(request))
        return token_ids, None

    def _fill_gap(self, prompt: str | list[int] | None, suffix: str) -> list[int]:
        if not self._fill_in.is_supported:
            raise unsupported("This model was not taught to fill gaps: its tokenizer has no tokens for it.", "suffix")
        if isinstance(prompt, list):
            check_token_ids(prompt, self.limits.vocab_size, "prompt")
        else:
            check_text(prompt or "", "prompt")
        return self._fill_in.encode(prompt or "", check_text(suffix, "suffix"))

    def _find_ends(self, request: Generate) -> frozenset[int]:
        """The tokens that end an answer and are not shown."""
        if request.sampling.ignore_eos:
            return frozenset()
        return self.limits.eos_token_ids | (self._fill_in.end_token_ids if request.suffix else frozenset())

    def _resolve_max_tokens(self, request: Generate, num_prompt: int) -> int:
        """As asked for, but no more than fits. Raises RequestRejected when not even one token does."""
        room = self.limits.max_model_len - num_prompt
        wanted = request.sampling.max_tokens
        if room > 0:
            return room if wanted is None else min(wanted, room)
        param = _prompt_param(request)
        start = f"This model's maximum context length is {self.limits.max_model_len} tokens. However, "
        if wanted is None:
            detail = f"your {param} resulted in {num_prompt} tokens. Please reduce the length of the {param}."
        else:
            detail = (
                f"you requested {num_prompt + wanted} tokens ({num_prompt} in the {param}, {wanted} in the completion)."
                f" Please reduce the length of the {param} or completion."
            )
        raise RequestRejected("context_length_exceeded", start + detail, param)

    def _find_echo_text(self, request: Generate) -> str:
        if not request.echo:
            return ""
        prompt = request.prompt or ""
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)

    def _read_resume(self, request: Generate, max_tokens: int) -> dict[int, list[int]]:
        return {entry.index: self._check_resume(entry, request, max_tokens) for entry in request.resume or ()}

    def _check_resume(self, entry: ResumeChoice, request: Generate, max_tokens: int) -> list[int]:
        if not 0 <= entry.index < request.n or len(entry.token_ids) > max_tokens:
            raise invalid("'resume' does not fit the request.", "resume")
        check_token_ids(entry.token_ids, self.limits.vocab_size, "resume")
        return list(entry.token_ids)

    def _build_stream(
        self, request: Generate, rendered: RenderedPrompt | None, rules: EndRules, *, offers_tools: bool
    ) -> AnswerStream:
        matcher = StopMatcher(request.sampling.stop) if request.sampling.stop else None
        if rendered is None:
            return AnswerStream(build_detokenizer(self.tokenizer), rules, matcher)
        reasoning_class = self.template.reasoning_parser
        tool_call_class = self.template.tool_call_parser if offers_tools else None
        return AnswerStream(
            build_detokenizer(self.tokenizer, visible=self._visible_ids),
            rules,
            matcher,
            reasoning_class(rendered.text, rendered.continued) if reasoning_class else None,
            tool_call_class(request.tools or ()) if tool_call_class else None,
        )


def _replay(
    stream: AnswerStream, token_ids: list[int], max_tokens: int, grammar: GrammarState | None
) -> PreparedChoice:
    """Lead the stream silently through what the client has been sent.

    A choice that these tokens end had its held-back text sent along with its last token: nothing is left to say.
    """
    for position, token_id in enumerate(token_ids):
        if (reason := stream.advance(token_id).finish) is not None:
            del token_ids[position + 1 :]
            break
    else:
        reason = "length" if len(token_ids) >= max_tokens else None
        if grammar is not None and _replay_grammar(grammar := grammar.copy(), token_ids):
            reason = "stop"
    if reason is not None:
        stream.flush()
        reason = stream.final_reason(reason)
    return PreparedChoice(stream, token_ids, reason, grammar)


def _replay_grammar(grammar: GrammarState, token_ids: list[int]) -> bool:
    """Whether these tokens are all that the grammar allows. Raises RequestRejected when it does not allow them."""
    if not all(map(grammar.accept, token_ids)):
        raise invalid("'resume' does not have the form that the request asks for.", "resume")
    return grammar.is_complete


def _prompt_param(request: Generate) -> str:
    return "messages" if request.kind == "chat" else "prompt"
