"""A Lark grammar as one regular expression, which is what a string within a tool call can be held to.

That is possible for any grammar whose rules do not refer to themselves, such as that of a patch. Grammars of OpenAI's
custom tools are of this dialect: https://lark-parser.readthedocs.io/en/stable/grammar.html. Knows no tool.
"""

import re
from typing import NamedTuple

from apps.openai_api.schemas.lark_terminals import COMMON, read_pattern, read_range, read_string

MAX_GRAMMAR_CHARS = 32 * 1024
MAX_REGEX_CHARS = 128 * 1024
_MAX_WORK_CHARS = 8 * MAX_REGEX_CHARS
_MAX_DEPTH = 60
_TOKEN = re.compile(
    r"""(?P<blank>[\ \t\r\f]+|//[^\n]*|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<string>"(?:\\.|[^"\\\n])*"i?)
    |(?P<regex>/(?:\\.|[^/\\\n])+/[a-z]*)
    |(?P<name>_*[A-Za-z][A-Za-z0-9_]*)
    |(?P<number>[0-9]{1,6})
    |(?P<directive>%[a-z]+)
    |(?P<mark>->|\.\.|[:|()\[\]?*+~.,!])""",
    re.VERBOSE,
)
_OPENING, _CLOSING = ("(", "["), (")", "]")


class LarkError(ValueError):
    """The grammar cannot be used; the message says why."""


class _Token(NamedTuple):
    kind: str
    text: str


class _Node(NamedTuple):
    """A piece of a rule: `text` is a regular expression, a name or a quantifier, as `kind` says."""

    kind: str  # text, name, sequence, choice, repeat
    text: str = ""
    members: "tuple[_Node, ...]" = ()


_END = _Token("end", "")


def convert_grammar(grammar: str) -> str:
    """Raises LarkError for what is no grammar, what Lark has besides, and rules that refer to themselves."""
    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise LarkError(f"it is longer than {MAX_GRAMMAR_CHARS} characters")
    parsed = _Grammar()
    for statement in _split(grammar):
        _Reader(statement, parsed).read()
    return _Writer(parsed).write_start()


class _Grammar:
    """Rules and terminals by their names, and what may stand between two terminals."""

    def __init__(self) -> None:
        self.rules: dict[str, _Node] = {}
        self.ignored: list[_Node] = []

    def add(self, name: str, node: _Node) -> None:
        """Raises LarkError for a second one of this name."""
        if name in self.rules:
            raise LarkError(f"'{name}' is defined twice")
        self.rules[name] = node


def _split(grammar: str) -> list[list[_Token]]:
    """The statements: each goes on over the lines that begin with a bar, and within brackets."""
    statements: list[list[_Token]] = [[]]
    depth = place = 0
    while place < len(grammar):
        found = _TOKEN.match(grammar, place)
        if found is None:
            raise LarkError(f"'{grammar[place : place + 20]}' cannot be read")
        place = found.end()
        token = _Token(found.lastgroup or "", found[0])
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if token.kind == "newline" and depth <= 0:
            statements.append([])
        elif token.text == "|" and not statements[-1] and len(statements) > 1:
            statements.pop()
            while statements and not statements[-1]:
                statements.pop()
            statements = statements or [[]]
            statements[-1].append(token)
        elif token.kind not in ("blank", "newline"):
            statements[-1].append(token)
    return [statement for statement in statements if statement]


class _Reader:
    """One statement into the grammar."""

    def __init__(self, tokens: list[_Token], grammar: _Grammar) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0
        self._grammar = grammar

    def read(self) -> None:
        """Raises LarkError."""
        if self._next.kind == "directive":
            self._read_directive()
        else:
            while self._next.text in ("?", "!"):
                self._take()
            name = self._take("name").text
            if self._skip("."):
                self._take("number")  # a priority: it chooses among readings, which are not told apart here
            self._expect(":")
            self._grammar.add(name, self._read_choice())
        if self._next is not _END:
            raise LarkError(f"'{self._next.text}' is not expected where it stands")

    def _read_directive(self) -> None:
        match self._take().text:
            case "%ignore":
                self._grammar.ignored.append(self._read_choice())
            case "%import":
                self._read_import()
            case other:
                raise LarkError(f"'{other}' is not supported here")

    def _read_import(self) -> None:
        module = self._take("name").text
        if module != "common":
            raise LarkError(f"'{module}' cannot be imported from here, only 'common'")
        if self._skip("("):
            self._import(self._take("name").text)
            while self._skip(","):
                self._import(self._take("name").text)
            return self._expect(")")
        self._expect(".")
        name = self._take("name").text
        self._import(name, self._take("name").text if self._skip("->") else name)

    def _import(self, name: str, alias: str | None = None) -> None:
        if name not in COMMON:
            raise LarkError(f"'common.{name}' is not known here")
        self._grammar.add(alias or name, _Node("text", COMMON[name]))

    def _read_choice(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise LarkError("it is nested too deeply")
        options = [self._read_sequence()]
        while self._skip("|"):
            options.append(self._read_sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else _Node("choice", members=tuple(options))

    def _read_sequence(self) -> _Node:
        members = []
        while self._next.kind in ("string", "regex", "name") or self._next.text in _OPENING:
            members.append(self._read_repeated())
        if self._skip("->"):
            self._take("name")
        return members[0] if len(members) == 1 else _Node("sequence", members=tuple(members))

    def _read_repeated(self) -> _Node:
        node = self._read_atom()
        while True:
            if self._next.text in ("?", "*", "+"):
                node = _Node("repeat", self._take().text, (node,))
            elif self._skip("~"):
                least = self._take("number").text
                most = self._take("number").text if self._skip("..") else least
                node = _Node("repeat", f"{{{int(least)},{int(most)}}}", (node,))
            else:
                return node

    def _read_atom(self) -> _Node:
        token = self._take()
        if token.text in _OPENING:
            node = self._read_choice()
            self._expect(_CLOSING[_OPENING.index(token.text)])
            return node if token.text == "(" else _Node("repeat", "?", (node,))
        if token.kind == "name":
            return _Node("name", token.text)
        try:
            if token.kind == "regex":
                return _Node("text", read_pattern(token.text))
            if self._skip(".."):
                return _Node("text", read_range(token.text, self._take("string").text))
            return _Node("text", read_string(token.text))
        except ValueError as error:
            raise LarkError(str(error)) from None

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place] if self._place < len(self._tokens) else _END

    def _take(self, kind: str = "") -> _Token:
        token = self._next
        if token is _END or (kind and token.kind != kind):
            what = f"'{token.text}'" if token.text else "the end of a line"
            raise LarkError(f"{what} stands where a {kind or 'name'} is expected")
        self._place += 1
        return token

    def _skip(self, text: str) -> bool:
        if self._next.text != text:
            return False
        self._place += 1
        return True

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            raise LarkError(f"'{text}' is missing before '{self._next.text}'")


class _Writer:
    """The grammar as a regular expression, each name in place of which its definition stands."""

    def __init__(self, grammar: _Grammar) -> None:
        self._rules = grammar.rules
        self._written: dict[tuple[str, bool], str] = {}
        self._open: list[str] = []
        self._depth = 0
        self._num_chars = 0
        ignored = [self._write(node, is_terminal=True) for node in grammar.ignored]
        self._between = f"(?:{'|'.join(ignored)})*" if ignored else ""

    def write_start(self) -> str:
        """Raises LarkError."""
        return self._between + self._write_name("start", is_terminal=False)

    def _write(self, node: _Node, *, is_terminal: bool) -> str:
        self._depth += 1
        if self._depth > 2 * _MAX_DEPTH:
            raise LarkError("it is nested too deeply")
        text = self._write_node(node, is_terminal=is_terminal)
        self._depth -= 1
        self._num_chars += len(text)
        if len(text) > MAX_REGEX_CHARS or self._num_chars > _MAX_WORK_CHARS:
            raise LarkError("it is too long as a regular expression")
        return text

    def _write_node(self, node: _Node, *, is_terminal: bool) -> str:
        match node.kind:
            case "text":
                return node.text if is_terminal else node.text + self._between
            case "name":
                return self._write_name(node.text, is_terminal=is_terminal)
            case "repeat":
                return f"(?:{self._write(node.members[0], is_terminal=is_terminal)}){node.text}"
        parts = [self._write(member, is_terminal=is_terminal) for member in node.members]
        return "".join(parts) if node.kind == "sequence" else _join_options(parts)

    def _write_name(self, name: str, *, is_terminal: bool) -> str:
        if name not in self._rules:
            raise LarkError(f"'{name}' is not defined")
        if name in self._open:
            raise LarkError(f"'{name}' refers to itself, which cannot be enforced within a call")
        if (name, is_terminal) not in self._written:
            self._open.append(name)
            is_own = not is_terminal and name.strip("_")[:1].isupper()
            text = self._write(self._rules[name], is_terminal=is_terminal or is_own)
            self._written[name, is_terminal] = f"(?:{text})" + (self._between if is_own else "")
            self._open.pop()
        return self._written[name, is_terminal]


def _join_options(options: list[str]) -> str:
    some = [option for option in options if option]
    return f"(?:{'|'.join(some)})" + ("?" if len(some) < len(options) else "")
