"""What form an answer must have: response formats, enforced tool calls, and where reasoning may come before them.

Everything becomes one grammar: a frame in llguidance's Lark dialect that names parts (JSON schemas, regular
expressions, the client's own grammars). Knows no tool-call format but by its shape, and no engine beyond the state.
"""

import json
from typing import Any

from gpu_worker.engine.grammar import GrammarState
from gpu_worker.frontend.chat_template import ChatTemplate, RenderedPrompt
from gpu_worker.frontend.errors import RequestRejected, invalid, unsupported
from gpu_worker.frontend.grammars import GrammarCompiler, GrammarError
from gpu_worker.frontend.lark import exclude, quote
from gpu_worker.frontend.parsers.base import EnclosedReasoning
from gpu_worker.frontend.structure_calls import CallGrammars, Frame
from gpu_worker.frontend.structure_parts import Part, is_strict, make_part
from gpu_worker.frontend.thinking_budget import BudgetedState, Thought
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import Generate

# The model writes a text in whatever tokens it likes, as it would without a grammar.
_BLANK = "BLANK: /[ \\t\\r\\n]{1,8}/\n"
_BUDGET = "thinking_budget"
_ANYTHING = Frame("TEXT", "TEXT: /(?s:.*)/\n", {}, _BUDGET)
_OPTIONS = '%llguidance {"no_forcing": true}\n'


class StructureBuilder:
    """The grammars of one model's requests. Thread-safe; blocking."""

    def __init__(self, template: ChatTemplate, compiler: GrammarCompiler, tokenizer: TextTokenizer) -> None:
        self._template = template
        self._compiler = compiler
        self._tokenizer = tokenizer
        self._calls = CallGrammars(template.tool_call_parser, template.source)
        # The first token may then begin with a space that is not shown.
        self._lead = '" "? ' if tokenizer.drops_first_space else ""

    def build(self, request: Generate, rendered: RenderedPrompt | None) -> GrammarState | None:
        """The state of an answer without tokens, to be copied for every choice; None where any answer will do.

        Raises RequestRejected naming the field that cannot be honoured.
        """
        frame = self._find_frame(request, continues=rendered is not None and bool(rendered.continued))
        if request.thinking_budget is not None and rendered is not None and not rendered.continued:
            return self._limit_reasoning(frame or _ANYTHING, request, rendered, request.thinking_budget)
        if frame is None:
            return None
        if request.sampling.ignore_eos:
            raise invalid(f"'ignore_eos' cannot be combined with '{frame.param}'.", "ignore_eos")
        if rendered is not None:
            frame = self._allow_reasoning(frame, rendered)
        state = self._compile(frame)
        if rendered is not None and not all(map(state.accept, self._compiler.tokenize(rendered.continued))):
            raise invalid(f"The final message is not the beginning of what '{frame.param}' asks for.", "messages")
        return state

    def _limit_reasoning(self, frame: Frame, request: Generate, rendered: RenderedPrompt, budget: int) -> GrammarState:
        """What the frame describes, after reasoning of so many tokens."""
        parser = self._template.reasoning_parser
        if not isinstance(parser, EnclosedReasoning):
            raise unsupported(f"'{_BUDGET}' is not possible with the way in which this model reasons.", _BUDGET)
        if request.sampling.ignore_eos:
            raise invalid(f"'ignore_eos' cannot be combined with '{_BUDGET}'.", "ignore_eos")
        opening, closing = (mark.strip() for mark in parser.enclosure)
        thought = Thought(opening.encode(), closing.encode(), rendered.text.rstrip().endswith(opening))
        free = frame if frame is _ANYTHING else self._allow_reasoning(frame, rendered)
        end = self._write_token(closing)
        ended = frame._replace(start=f"{end} BLANK? ({frame.start})", rules=frame.rules + _BLANK)
        return BudgetedState(
            self._compile(free), self._compile(ended).matcher, thought, budget, self._tokenizer.token_bytes
        )

    def _write_token(self, text: str) -> str:
        """A Lark expression for the one token that writes this, which a model knows better than its letters."""
        token_ids = self._tokenizer.encode(text, add_special_tokens=False)
        return f"<[{token_ids[0]}]>" if len(token_ids) == 1 else quote(text)

    def _find_frame(self, request: Generate, *, continues: bool) -> Frame | None:
        """`continues`: the prompt ends within the answer."""
        tools = (request.tools or []) if request.kind == "chat" and allows_tools(request.tool_choice) else []
        single = not request.parallel_tool_calls
        if request.tool_choice == "required":
            return self._calls.require(tools, single=single, param="tool_choice")
        if isinstance(request.tool_choice, dict):
            return self._calls.require(tools, read_named(request.tool_choice), single=True, param="tool_choice")
        if request.structure is None:
            return self._calls.guide(tools) if any(map(is_strict, tools)) and self._can_precede else None
        param = request.structure.param
        parts = {"answer": make_part(request.structure)}
        start = f"{'' if continues or request.kind != 'chat' else quote(self._answer_opening)} @answer"
        if not tools:
            return Frame(start, "", parts, param)
        calls = self._calls.require(tools, single=single, param=param)
        return Frame(f"{start} | {calls.start}", calls.rules, parts | calls.parts, param)

    @property
    def _can_precede(self) -> bool:
        """Whether it is known how reasoning, if there is any, is told from the answer."""
        parser = self._template.reasoning_parser
        return parser is None or isinstance(parser, EnclosedReasoning)

    @property
    def _answer_opening(self) -> str:
        parser = self._template.reasoning_parser
        return parser.answer_opening if isinstance(parser, EnclosedReasoning) else ""

    def _allow_reasoning(self, frame: Frame, rendered: RenderedPrompt) -> Frame:
        """Reasoning comes before what the frame describes, and is free."""
        parser = self._template.reasoning_parser
        if parser is None:
            return frame
        if not isinstance(parser, EnclosedReasoning):
            raise unsupported(f"'{frame.param}' is not possible with the way in which this model reasons.", frame.param)
        opening, closing = parser.enclosure
        is_open = rendered.text.rstrip().endswith(opening.rstrip())
        thought = "thought BLANK?" if is_open else f"({quote(opening)} thought BLANK?)?"
        rules = f"thought[lazy]: THOUGHT {quote(closing)}\nTHOUGHT: {exclude(parser.excluded)}\n"
        return frame._replace(start=f"{thought} ({frame.start})", rules=frame.rules + rules + _BLANK)

    def _compile(self, frame: Frame) -> GrammarState:
        """Raises RequestRejected, naming the part that is wrong where it is one part alone."""
        try:
            return self._compile_parts(f"start: {self._lead}({frame.start})\n{frame.rules}", frame.parts, frame.param)
        except GrammarError as error:
            for name, part in frame.parts.items():
                try:
                    self._compile_parts(f"start: @{name}\n", {name: part}, part.param)
                except GrammarError as own_error:
                    raise _reject(own_error, part.param) from error
            raise _reject(error, frame.param) from error

    def _compile_parts(self, rules: str, parts: dict[str, Part], param: str) -> GrammarState:
        grammars: list[dict[str, Any]] = [{"lark_grammar": _OPTIONS + rules}]
        grammars += [{"name": name, **part.grammar} for name, part in parts.items()]
        try:
            text = json.dumps({"grammars": grammars}, ensure_ascii=False)
            text.encode()
        except (ValueError, RecursionError) as error:
            raise GrammarError("It cannot be written as JSON.") from error
        return GrammarState(self._compiler.compile(text), self._compiler.mask_size, param)


def allows_tools(tool_choice: Any) -> bool:
    """Whether the model may call tools. Raises RequestRejected for what is no choice at all."""
    if tool_choice in (None, "auto", "required"):
        return True
    if isinstance(tool_choice, dict):
        read_named(tool_choice)
        return True
    if tool_choice == "none":
        return False
    raise invalid(
        "Invalid value for 'tool_choice'. Supported values are: 'auto', 'none', 'required' and a function.",
        "tool_choice",
    )


def read_named(tool_choice: dict[str, Any]) -> str:
    """The function's name. Raises RequestRejected."""
    function = tool_choice.get("function")
    if isinstance(function, dict) and isinstance(name := function.get("name"), str):
        return name
    raise invalid("Invalid value for 'tool_choice': it names no function.", "tool_choice")


def _reject(error: GrammarError, param: str) -> RequestRejected:
    return invalid(f"'{param}' cannot be enforced: {error}", param)
