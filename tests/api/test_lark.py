"""Lark grammars of custom tools: read as the texts that they describe, and what cannot be enforced by name."""

import re

import pytest

from apps.openai_api.schemas.lark_regex import MAX_GRAMMAR_CHARS, LarkError, convert_grammar

PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk
    | update_hunk   // the third kind
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
SUM = r"""
?start: sum
sum.2: term (("+" | "-") term)*
!term: factor~1..3
factor: NUMBER | CALL "(" [CNAME ("," CNAME)*] ")" | HEX
CALL: ("sin" | "cos"i) DIGIT?
HEX: "0x" ("0".."9" | "a".."f")+
%import common (NUMBER, CNAME)
%import common.DIGIT
%import common.WS -> BLANK
%ignore BLANK
%ignore /#[^\n]*/
"""


def reads(grammar: str, text: str) -> bool:
    return re.fullmatch(convert_grammar(grammar), text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "*** Begin Patch\n*** Add File: a/b.py\n+x = 1\n+\n*** End Patch\n",
        "*** Begin Patch\n*** Update File: a\n*** Move to: b\n@@ f\n-old\n+new\n same\n*** End of File\n*** End Patch",
        "*** Begin Patch\n*** Delete File: ü\n*** Delete File: b\n*** End Patch",
    ],
)
def test_a_patch(text: str) -> None:
    assert reads(PATCH, text)
    assert not reads(PATCH, text.replace("*** End Patch", "*** End"))
    assert not reads(PATCH, "x" + text)
    assert not reads(PATCH, text.replace("File: ", "File:"))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("1", True),
        (" 1 + 2.5 -3e4 # all\n", True),
        ("sin ( a , b_2 )", True),
        ("COS1()", True),
        ("Sin()", False),
        ("0xbeef", True),
        ("0xg", False),
        ("1 2 3", True),
        ("1 2 3 4", False),
        ("1 +", False),
        ("sin(a,)", False),
        ("", False),
    ],
)
def test_blanks_ranges_repetitions_and_imports(text: str, is_one: bool) -> None:
    assert reads(SUM, text) == is_one


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        (r'start: "a\n\t\"\\\x41\u00e9" "."', 'a\n\t"\\Aé.'),
        (r"start: /a\/b/ /x.y/s", "a/bx\ny"),
        ("start: A B?\nA: /a/i\nB: A | \nC: A", "AA"),
        ('start:\n  | "a"\n  | "b" # or\n', "b"),
        ('start: (\n "a"\n | "b"\n)+', "abba"),
        ('start: "[" /[^]]/ "]"', "[x]"),
        ("start: ESCAPED_STRING\n%import common.ESCAPED_STRING", '"a\\"b"'),
    ],
)
def test_spellings(grammar: str, text: str) -> None:
    assert reads(grammar, text)


def test_an_option_that_is_empty() -> None:
    assert reads('start: "a" ( | "b")', "a")
    assert reads('start: "a" ["b"]', "ab")


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ('start: "(" start ")" | "x"', "'start' refers to itself"),
        ('start: a\na: b\nb: "x" a?', "'a' refers to itself"),
        ("start: a", "'a' is not defined"),
        ('a: "x"', "'start' is not defined"),
        ("", "'start' is not defined"),
        ('start: "a"\nstart: "b"', "'start' is defined twice"),
        ('start: "a" )', "')' is not expected"),
        ('start: ("a"', "')' is missing"),
        ('start "a"', "':' is missing"),
        ('start: "a', "cannot be read"),
        ('start: "a" -> 3', "stands where a name"),
        ('start: ""', "a string is empty"),
        ('start: "b".."a"', "no range of characters"),
        (r'start: "\ud800"', "is no character"),
        ("start: /a/x", "the flag 'x'"),
        ("start: /a(?=b)/", "looking around"),
        ("start: /a(?<!b)/", "looking around"),
        ("%declare A\nstart: A", "'%declare' is not supported"),
        ("%import python.NAME\nstart: NAME", "'python' cannot be imported"),
        ("%import common.NAME\nstart: NAME", "'common.NAME' is not known"),
        ('start: _x{"a"}', "cannot be read"),
        ('start: "a"~9999999', "is not expected"),
        ("start: " + "(" * 100 + '"a"' + ")" * 100, "nested too deeply"),
        ('start: "a"' + "?" * 500, "nested too deeply"),
        ("x" * (MAX_GRAMMAR_CHARS + 1), "longer than"),
        ("start: r20\nr0: /abcdefgh/\n" + "\n".join(f"r{i + 1}: r{i} r{i}" for i in range(20)), "too long"),
    ],
)
def test_what_cannot_be_enforced_is_said(grammar: str, why: str) -> None:
    with pytest.raises(LarkError, match=re.escape(why)):
        convert_grammar(grammar)
