"""What form an answer must have: response formats, enforced tool calls, and where reasoning may come before them.

Everything becomes one grammar: a frame in llguidance's Lark dialect that names parts (JSON schemas, regular
expressions, the client's own grammars). Knows no tool-call format but by its shape, and no engine beyond the state.
"""

import json
from typing import Any, NamedTuple

from gpu_worker.engine.grammar import GrammarState
from gpu_worker.frontend.chat_template import ChatTemplate, RenderedPrompt
from gpu_worker.frontend.errors import RequestRejected, invalid, unsupported
from gpu_worker.frontend.grammars import GrammarCompiler, GrammarError
from gpu_worker.frontend.parsers.base import CallShape, EnclosedReasoning, ShapedCalls
from gpu_worker.frontend.structure_parts import Part, is_strict, make_arguments_part, make_part
from gpu_worker.protocol import Generate

# The model writes a text in whatever tokens it likes, as it would without a grammar.
_OPTIONS = '%llguidance {"no_forcing": true}\n'


class _Frame(NamedTuple):
    """Lark rules, where they start, and the parts they name. Failures that are not one part's name `param`."""

    start: str
    rules: str
    parts: dict[str, Part]
    param: str


class StructureBuilder:
    """The grammars of one model's requests. Thread-safe; blocking."""

    def __init__(self, template: ChatTemplate, compiler: GrammarCompiler, *, drops_first_space: bool) -> None:
        """`drops_first_space`: of the tokenizer; the first token may then begin with a space that is not shown."""
        self._template = template
        self._compiler = compiler
        self._lead = '" "? ' if drops_first_space else ""

    def build(self, request: Generate, rendered: RenderedPrompt | None) -> GrammarState | None:
        """The state of an answer without tokens, to be copied for every choice; None where any answer will do.

        Raises RequestRejected naming the field that cannot be honoured.
        """
        frame = self._find_frame(request)
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

    def _find_frame(self, request: Generate) -> _Frame | None:
        tools = (request.tools or []) if request.kind == "chat" and allows_tools(request.tool_choice) else []
        single = not request.parallel_tool_calls
        if request.tool_choice == "required":
            return self._require_calls(tools, single=single, param="tool_choice")
        if isinstance(request.tool_choice, dict):
            named = {read_named(request.tool_choice)}
            return self._require_calls(tools, named, single=True, param="tool_choice")
        if request.structure is None:
            return self._guide_calls(tools) if any(map(is_strict, tools)) else None
        param = request.structure.param
        parts = {"answer": make_part(request.structure)}
        if not tools:
            return _Frame("@answer", "", parts, param)
        calls = self._require_calls(tools, single=single, param=param)
        return _Frame(f"@answer | {calls.start}", calls.rules, parts | calls.parts, param)

    def _require_calls(
        self, tools: list[dict[str, Any]], named: set[str] | None = None, *, single: bool, param: str
    ) -> _Frame:
        """Calls of these tools (or of those named among them), one at least, and nothing else."""
        if self._call_shape is None:
            raise unsupported(f"The form of this model's tool calls cannot be enforced by '{param}'.", param)
        calls = _list_calls(tools, named, self._call_shape, only_strict=False)
        if not calls:
            raise invalid(f"'{param}' asks for a call of a tool that 'tools' does not have.", param)
        shape = calls[0].shape
        more = "" if single else f"({_quote(shape.separator)} call)*"
        rules = f"calls: {_quote(shape.first)} call {more} {_quote(shape.last)}\n" + _join_calls("call", calls)
        return _Frame("calls", rules, {call.name: call.part for call in calls}, param)

    def _guide_calls(self, tools: list[dict[str, Any]]) -> _Frame | None:
        """Any text; but a call that the model begins has the form of one, with right arguments of a strict tool."""
        if self._call_shape is None or not self._can_precede:
            return None
        calls = _list_calls(tools, None, self._call_shape, only_strict=True)
        shape = calls[0].shape
        more = f"({_quote(shape.separator)} call)*"
        rules = f"TEXT: /(?s:.*)/\nhead[lazy]: TEXT {_quote(shape.trigger)}\n"
        rules += f"tail: begun {more} {_quote(shape.last)}\n" + _join_calls("call", calls)
        rules += _join_calls("begun", calls, without=shape.trigger)
        return _Frame("(head tail)* TEXT", rules, {call.name: call.part for call in calls}, "tools")

    @property
    def _call_shape(self) -> Any:
        parser = self._template.tool_call_parser
        return parser.call_shape if isinstance(parser, ShapedCalls) else None

    @property
    def _can_precede(self) -> bool:
        """Whether it is known how reasoning, if there is any, is told from the answer."""
        parser = self._template.reasoning_parser
        return parser is None or isinstance(parser, EnclosedReasoning)

    def _allow_reasoning(self, frame: _Frame, rendered: RenderedPrompt) -> _Frame:
        """Reasoning comes before what the frame describes, and is free."""
        parser = self._template.reasoning_parser
        if parser is None:
            return frame
        if not isinstance(parser, EnclosedReasoning):
            raise unsupported(f"'{frame.param}' is not possible with the way in which this model reasons.", frame.param)
        opening, closing = parser.enclosure
        is_open = rendered.text.rstrip().endswith(opening.rstrip())
        thought = "thought BLANK?" if is_open else f"({_quote(opening)} thought BLANK?)?"
        rules = f"thought[lazy]: /(?s:.*)/ {_quote(closing)}\nBLANK: /[ \\t\\r\\n]{{1,8}}/\n"
        return frame._replace(start=f"{thought} ({frame.start})", rules=frame.rules + rules)

    def _compile(self, frame: _Frame) -> GrammarState:
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


class _Call(NamedTuple):
    name: str  # of the part that has its arguments
    part: Part
    shape: CallShape


def _list_calls(
    tools: list[dict[str, Any]], named: set[str] | None, make_shape: Any, *, only_strict: bool
) -> list[_Call]:
    calls = []
    for index, tool in enumerate(tools):
        name = tool["function"]["name"]
        if named is None or name in named:
            is_free = only_strict and not is_strict(tool)
            part = make_arguments_part(tool, f"tools[{index}].function.parameters", is_free=is_free)
            calls.append(_Call(f"arguments_{index}", part, make_shape(name)))
    return calls


def _join_calls(rule: str, calls: list[_Call], without: str = "") -> str:
    """A Lark rule for one call of any of the tools; `without` has been written already."""
    options = []
    for call in calls:
        before = call.shape.before if not without else (call.shape.first + call.shape.before).removeprefix(without)
        options.append(f"{_quote(before)} @{call.name} {_quote(call.shape.after)}")
    return f"{rule}: {' | '.join(options)}\n"


def _quote(text: str) -> str:
    """A Lark string; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _reject(error: GrammarError, param: str) -> RequestRejected:
    return invalid(f"'{param}' cannot be enforced: {error}", param)
