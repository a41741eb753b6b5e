"""The grammar of tool calls: which calls an answer may or must have, in the shape of the model's own format.

Knows no format but by its shape (`parsers.base.CallShape`) and notation, no vocabulary and no reasoning.
"""

from typing import Any, NamedTuple

from gpu_worker.frontend.call_arguments import ArgumentRules
from gpu_worker.frontend.errors import invalid, unsupported
from gpu_worker.frontend.lark import quote
from gpu_worker.frontend.parsers.base import CallShape, ShapedCalls
from gpu_worker.frontend.structure_parts import Part, is_strict, make_arguments_part

Tool = dict[str, Any]


class Frame(NamedTuple):
    """Lark rules, where they start, and the parts they name. Failures that are not one part's name `param`."""

    start: str
    rules: str
    parts: dict[str, Part]
    param: str


class _Call(NamedTuple):
    """One tool's: its shape, the expression for its arguments and what that needs."""

    shape: CallShape
    arguments: str
    rules: list[str]
    parts: dict[str, Part]


class CallGrammars:
    """The calls of one model. Thread-safe."""

    def __init__(self, parser: Any, template: str) -> None:
        """`parser`: the class that reads the model's calls, if there is one; `template`: its chat template's text."""
        self._parser: Any = parser if isinstance(parser, ShapedCalls) else None
        self._template = template

    def require(self, tools: list[Tool], named: str | None = None, *, single: bool, param: str) -> Frame:
        """Calls of these tools (or of the named one), one at least, and nothing else. Raises RequestRejected."""
        if self._parser is None:
            raise unsupported(f"The form of this model's tool calls cannot be enforced by '{param}'.", param)
        calls = self._list(tools, named, only_strict=False)
        if not calls:
            raise invalid(f"'{param}' asks for a call of a tool that 'tools' does not have.", param)
        rules = f"calls: {quote(calls[0].shape.first)} call {_write_more(calls[0].shape, single=single)}\n"
        return _make_frame("calls", rules + _join("call", calls), calls, param)

    def guide(self, tools: list[Tool]) -> Frame | None:
        """Any text; but a call that the model begins has the form of one, with right arguments of a strict tool.

        None where nothing tells a call from other text before it is over.
        """
        if self._parser is None:
            return None
        calls = self._list(tools, None, only_strict=True)
        shape = calls[0].shape
        if not shape.trigger:
            return None
        rules = f"TEXT: /(?s:.*)/\nhead[lazy]: TEXT {quote(shape.trigger)}\n"
        rules += f"tail: begun {_write_more(shape, single=False)}\n"
        rules += _join("call", calls) + _join("begun", calls, is_begun=True)
        return _make_frame("(head tail)* TEXT", rules, calls, "tools")

    def _list(self, tools: list[Tool], named: str | None, *, only_strict: bool) -> list[_Call]:
        return [
            self._write(tool, index, is_free=only_strict and not is_strict(tool))
            for index, tool in enumerate(tools)
            if named in (None, tool["function"]["name"])
        ]

    def _write(self, tool: Tool, index: int, *, is_free: bool) -> _Call:
        shape = self._parser.call_shape(tool["function"]["name"], self._template)
        self._check_name(tool, shape, f"tools[{index}].function.name")
        name, param = f"arguments_{index}", f"tools[{index}].function.parameters"
        if self._parser.notation is None:
            return _Call(shape, f"@{name}", [], {name: make_arguments_part(tool, param, is_free=is_free)})
        rules = ArgumentRules(tool, self._parser.notation, name, param)
        return _Call(shape, rules.write(is_free=is_free), rules.rules, rules.parts)

    def _check_name(self, tool: Tool, shape: CallShape, param: str) -> None:
        """The parser reads the name back, in a call without arguments. Raises RequestRejected."""
        name, reader = tool["function"]["name"], self._parser([tool])
        arguments = "{}" if self._parser.notation is None else ""
        text = shape.first + (shape.sample or shape.before) + arguments + shape.after + shape.last
        names = [call.name for split in (reader.push(text), reader.flush()) for call in split.tool_calls if call.name]
        if names != [name] or reader.num_complete != 1:
            raise unsupported(f"A function called {name!r} has no place in the form of this model's tool calls.", param)


def _write_more(shape: CallShape, *, single: bool) -> str:
    """What follows the first call."""
    more = "" if single or shape.separator is None else f"({quote(shape.separator)} call)*"
    return f"{more} {quote(shape.last)}"


def _make_frame(start: str, rules: str, calls: list[_Call], param: str) -> Frame:
    rules += "".join(f"{rule}\n" for call in calls for rule in call.rules)
    return Frame(start, rules, {name: part for call in calls for name, part in call.parts.items()}, param)


def _join(rule: str, calls: list[_Call], *, is_begun: bool = False) -> str:
    """A Lark rule for one call of any of the tools, or for what follows the trigger of one."""
    options = []
    for call in calls:
        shape = call.shape
        before = (shape.first + shape.before).partition(shape.trigger)[2] if is_begun else shape.before
        options.append(f"{quote(before)} {shape.heading} {call.arguments} {quote(shape.after)}")
    return f"{rule}: {' | '.join(options)}\n"
