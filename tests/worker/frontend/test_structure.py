"""What form an answer must have: which tokens a grammar lets through, and what is refused, by name."""

import json
import random
import re
from typing import Any

import pytest
from llguidance import LLMatcher
from transformers import AutoTokenizer

from gpu_worker.engine.grammar import GrammarState
from gpu_worker.frontend.answer import AnswerStream, EndRules
from gpu_worker.frontend.detokenize import build_detokenizer
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.grammars import GrammarCompiler, GrammarError, build_vocabulary
from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import Generate, ResumeChoice, Sampling, Structure
from tests.worker_process import DEMO_MODEL, DEMO_VOCAB_SIZE

LIMITS = Limits(max_model_len=1024, vocab_size=DEMO_VOCAB_SIZE, eos_token_ids=frozenset({2}))
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
THINKING = "{{ '<think>' if open }}{% if false %}</think>{% endif %}"


def make_tool(name: str, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or WEATHER, **fields}}


def structure_of(schema: Any) -> Structure:
    return Structure("json_schema", json.dumps(schema))


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), LIMITS)


@pytest.fixture(scope="module")
def thinking() -> Frontend:
    """The demo model with a template that speaks of reasoning, and opens it when it is told to."""
    template = AutoTokenizer.from_pretrained(DEMO_MODEL).chat_template + THINKING
    return Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), LIMITS, template)


def ask(**fields: Any) -> Generate:
    sampling = {"seed": 1} | {key: fields.pop(key) for key in list(fields) if key in Sampling.__struct_fields__}
    fields = {"messages": [{"role": "user", "content": "hi"}]} | fields
    return Generate(id="r", kind="chat", sampling=Sampling(**sampling), **fields)


def start(frontend: Frontend, **fields: Any) -> GrammarState:
    grammar = frontend.prepare(ask(**fields)).choices[0].grammar
    assert grammar is not None
    return grammar


def reads(frontend: Frontend, text: str, **fields: Any) -> str:
    """What the form says of this text: "no", "open" (more must follow), "may end", "complete"."""
    grammar = start(frontend, **fields)
    if not all(map(grammar.accept, frontend.tokenizer.encode(text, add_special_tokens=False))):
        return "no"
    if grammar.is_complete:
        return "complete"
    return "may end" if grammar.matcher.is_accepting() else "open"


@pytest.mark.parametrize(
    ("structure", "text", "verdict"),
    [
        (None, "", "free"),
        (Structure("json_object"), '{"a": [1, "b", null]}', "complete"),
        (Structure("json_object"), "[1]", "no"),
        (Structure("json_object"), '{"a":', "open"),
        (structure_of(PERSON), '{"name": "Ann"}', "complete"),
        (structure_of(PERSON), '{"name":"Ann"}', "complete"),
        (structure_of(PERSON), '{\n  "name": "Ann"}', "no"),
        (structure_of(PERSON), '{"age": 3}', "no"),
        (structure_of(PERSON), '{"name": "Ann", "age"', "no"),
        (structure_of(PERSON | {"additionalProperties": True}), '{"name": "Ann", "age": 3}', "complete"),
        (structure_of({"allOf": [PERSON, WEATHER]}), '{"name": "Ann", "city": "Rome"}', "complete"),
        (structure_of({"type": "integer"}), "12", "may end"),
        (structure_of(True), "[null]", "complete"),
        (Structure("regex", r"[a-c]+/\d"), "abc/7", "complete"),
        (Structure("regex", "a\nb?"), "a\n", "may end"),
        (Structure("regex", r"\d+"), "٣", "no"),
        (Structure("choice", '["yes", "yes, sir", "no\\n"]'), "yes", "may end"),
        (Structure("choice", '["yes", "yes, sir", "no\\n"]'), "no\n", "complete"),
        (Structure("choice", '["yes", "yes, sir", "no\\n"]'), "maybe", "no"),
        (Structure("grammar", 'start: "a" start | "b"'), "aab", "complete"),
        (Structure("grammar", 'root ::= "a" root | "b"'), "aab", "complete"),
    ],
)
def test_text_is_of_its_form(frontend: Frontend, structure: Structure | None, text: str, verdict: str) -> None:
    if structure is None:
        assert frontend.prepare(ask()).choices[0].grammar is None
    else:
        assert reads(frontend, text, structure=structure) == verdict


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
MAIL = '<tool_call>\n{"name": "send \\"it\\"", "arguments": {}}\n</tool_call>'
TOOLS = [make_tool("weather"), make_tool('send "it"', {"type": "object", "properties": {}})]
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("text", "verdict", "fields"),
    [
        (CALL, "may end", {"tool_choice": "required"}),
        (f"{CALL}\n{MAIL}", "may end", {"tool_choice": "required"}),
        (CALL, "complete", {"tool_choice": "required", "parallel_tool_calls": False}),
        ("Hello", "no", {"tool_choice": "required"}),
        (CALL.replace("Rome", 'R", "x": "'), "no", {"tool_choice": "required"}),
        (CALL, "complete", {"tool_choice": NAMED}),
        (MAIL, "no", {"tool_choice": NAMED}),
        (CALL, "may end", {"structure": structure_of(PERSON)}),
        ('{"name": "Ann"}', "complete", {"structure": structure_of(PERSON)}),
        ("Hello", "no", {"structure": structure_of(PERSON)}),
        ('{"name": "Ann"}', "no", {"structure": structure_of(PERSON), "tool_choice": "required"}),
        (CALL, "no", {"structure": structure_of(PERSON), "tool_choice": "none"}),
    ],
)
def test_calls_are_enforced(frontend: Frontend, text: str, verdict: str, fields: dict[str, Any]) -> None:
    assert reads(frontend, text, tools=TOOLS, **fields) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Hello <b>there</b>", "may end"),
        (f"Let me see. {CALL}", "may end"),
        (f"{CALL} and {MAIL}\nDone.", "may end"),
        (CALL.replace('"city"', '"town"'), "no"),
        ('<tool_call>\n{"name": "other"', "no"),
        (MAIL.replace("{}", '{"anything": 1}'), "may end"),
    ],
)
def test_strict_tools_under_auto_bind_a_call_once_it_begins(frontend: Frontend, text: str, verdict: str) -> None:
    tools = [make_tool("weather", strict=True), make_tool('send "it"', strict=False)]
    assert reads(frontend, text, tools=tools) == verdict
    assert frontend.prepare(ask(tools=[make_tool("weather")])).choices[0].grammar is None


def test_strict_is_not_told_to_the_model(frontend: Frontend) -> None:
    strict, plain = (frontend.prepare(ask(tools=[make_tool("weather", **f)])) for f in ({"strict": True}, {}))
    assert strict.prompt_token_ids == plain.prompt_token_ids


@pytest.mark.parametrize(
    ("is_open", "text", "verdict"),
    [
        (False, '<think>{"x" hm</think>\n\n{"name": "Ann"}', "complete"),
        (False, '{"name": "Ann"}', "complete"),
        (False, "hm</think>", "no"),
        (True, 'hm</think>{"name": "Ann"}', "complete"),
        (True, '{"name": "Ann"}', "open"),
        (True, "hm</think>hm", "no"),
    ],
)
def test_form_begins_after_reasoning(thinking: Frontend, is_open: bool, text: str, verdict: str) -> None:
    fields = {"structure": structure_of(PERSON), "chat_template_kwargs": {"open": is_open}}
    assert reads(thinking, text, **fields) == verdict


def test_call_comes_after_reasoning(thinking: Frontend) -> None:
    assert reads(thinking, f"<think>hm</think>\n{CALL}", tools=TOOLS, tool_choice="required") == "may end"


def test_continued_message_is_the_beginning_of_the_form(frontend: Frontend) -> None:
    def continue_(text: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
        return {"messages": messages, "continue_final_message": True, "structure": structure_of(PERSON)}

    assert reads(frontend, 'n"}', **continue_('{"name": "An')) == "complete"
    with pytest.raises(RequestRejected) as caught:
        frontend.prepare(ask(**continue_("Hello")))
    assert caught.value.param == "messages"


def test_resumed_tokens_are_read_and_checked(frontend: Frontend) -> None:
    tokens = frontend.tokenizer.encode('{"name": "Ann"}', add_special_tokens=False)
    structure = structure_of(PERSON)
    (half,) = frontend.prepare(ask(structure=structure, resume=[ResumeChoice(0, tokens[:3])])).choices
    (whole,) = frontend.prepare(ask(structure=structure, resume=[ResumeChoice(0, tokens)])).choices
    assert half.finish_reason is None
    assert half.grammar is not None
    assert all(map(half.grammar.accept, tokens[3:]))
    assert half.grammar.is_complete
    assert whole.finish_reason == "stop"
    with pytest.raises(RequestRejected) as caught:
        frontend.prepare(ask(structure=structure, resume=[ResumeChoice(0, tokens[3:])]))
    assert caught.value.param == "resume"


def nest(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"structure": structure_of({"properties": {"a": {"uniqueItems": True}}})}, "response_format", "a.uniqueItems"),
        ({"structure": structure_of({"anyOf": [{"not": {}}]})}, "response_format", "anyOf[0].not"),
        ({"structure": structure_of({"type": "robot"})}, "response_format", "robot"),
        ({"structure": structure_of({"type": "string", "format": "robot"})}, "response_format", "robot"),
        ({"structure": structure_of({"type": "string", "pattern": "(?=a)"})}, "response_format", "look-around"),
        ({"structure": structure_of({"$ref": "http://127.0.0.1/x"})}, "response_format", "not present"),
        ({"structure": structure_of({"minimum": 3, "maximum": 1, "type": "integer"})}, "response_format", "greater"),
        ({"structure": structure_of({"x-guidance": {"lenient": True}})}, "response_format", "x-guidance"),
        ({"structure": structure_of([1])}, "response_format", "JSON schema"),
        ({"structure": structure_of(False)}, "response_format", "enforced"),
        ({"structure": Structure("json_schema", "{")}, "response_format", "not valid JSON"),
        ({"structure": Structure("json_schema", nest(300))}, "response_format", ""),
        ({"structure": Structure("json_schema", nest(100_000))}, "response_format", "nested"),
        ({"structure": structure_of({"enum": ["x" * 600_000]})}, "response_format", "large"),
        ({"structure": Structure("regex", "(", "guided_regex")}, "guided_regex", "unclosed"),
        ({"structure": Structure("regex", "", "guided_regex")}, "guided_regex", "empty"),
        ({"structure": Structure("regex", "\ud800", "guided_regex")}, "guided_regex", "Unicode"),
        ({"structure": Structure("choice", "[1]", "guided_choice")}, "guided_choice", "texts"),
        ({"structure": Structure("choice", "[]", "guided_choice")}, "guided_choice", "between"),
        ({"structure": Structure("choice", '["\\ud800"]', "guided_choice")}, "guided_choice", "JSON"),
        ({"structure": Structure("grammar", "start: x", "guided_grammar")}, "guided_grammar", "unknown name"),
        ({"structure": Structure("grammar", "root ::= x", "guided_grammar")}, "guided_grammar", "not found"),
        ({"structure": Structure("grammar", "start[temperature=0.5]: /a/")}, "response_format", "temperature"),
        ({"structure": Structure("json_object"), "ignore_eos": True}, "ignore_eos", "combined"),
        ({"tool_choice": "required"}, "tool_choice", "does not have"),
        ({"tool_choice": NAMED, "tools": TOOLS[1:]}, "tool_choice", "does not have"),
        ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice", "names no function"),
        ({"tool_choice": "always", "tools": TOOLS}, "tool_choice", "Supported values"),
        (
            {"tool_choice": "required", "tools": [*TOOLS, make_tool("f", {"type": "array"})]},
            "tools[2].function.parameters",
            "object",
        ),
        (
            {"tools": [*TOOLS, make_tool("f", {"properties": {"a": {"type": "x"}}}, strict=True)]},
            "tools[2].function.parameters",
            "Invalid type",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(
    frontend: Frontend, fields: dict[str, Any], param: str, word: str
) -> None:
    with pytest.raises(RequestRejected) as caught:
        frontend.prepare(ask(**fields))
    assert caught.value.param == param
    assert word in caught.value.message
    assert "<non-verbose" not in caught.value.message


def test_a_grammar_is_compiled_once(frontend: Frontend, monkeypatch: pytest.MonkeyPatch) -> None:
    structure = structure_of(PERSON | {"title": "once"})
    start(frontend, structure=structure)
    monkeypatch.setattr("gpu_worker.frontend.grammars.LLMatcher", None)  # would fail if it were called
    first, second = (start(frontend, structure=structure) for _ in range(2))
    assert first.accept(frontend.tokenizer.encode("{", add_special_tokens=False)[0])
    assert second.accept(frontend.tokenizer.encode('{"', add_special_tokens=False)[0])


@pytest.mark.parametrize("kind", ["byte_level", "unigram", "llama"])
@pytest.mark.parametrize(
    "pattern", ["[a-z]{2,6}( [a-z]{1,4}){0,2}", "(été|좋은 아침|\U0001f600){2}", '\\{"a": [0-9]+\\}']
)
def test_text_of_any_tokenizer_is_of_the_form(
    all_tokenizers: dict[str, TextTokenizer], kind: str, pattern: str
) -> None:
    """Random walks through what the masks allow; the text is what a client would get."""
    tokenizer = all_tokenizers[kind]
    eos = tokenizer.hf.eos_token_id
    vocab_size = len(tokenizer.hf) + 7
    compiler = GrammarCompiler(build_vocabulary(tokenizer, vocab_size, frozenset({eos}), frozenset()))
    lead = '" "? ' if tokenizer.drops_first_space else ""
    grammar = LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\nstart: {lead}/{pattern}/')
    for seed in range(10):
        text, is_whole = walk(compiler.compile(grammar), tokenizer, eos, random.Random(seed))
        assert not is_whole or re.fullmatch(pattern, text), text
    assert tokenizer.drops_first_space is (kind != "byte_level")


def walk(matcher: LLMatcher, tokenizer: TextTokenizer, eos: int, rng: random.Random) -> tuple[str, bool]:
    """A text, and whether it is whole: a vocabulary may lack a character that the form needs."""
    stream = AnswerStream(build_detokenizer(tokenizer), EndRules(end_token_ids=frozenset({eos})))
    text = ""
    while not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            return text, False
        token = rng.choice([i for i in range(8 * len(mask)) if mask[i // 8] >> i % 8 & 1])
        if token == eos:
            break
        assert matcher.consume_token(token)
        text += stream.advance(token).text
    return text + stream.flush().text, True


def test_a_model_without_an_end_token_can_still_be_bound(byte_level: TextTokenizer) -> None:
    vocab_size = -(-len(byte_level.hf) // 32) * 32  # the mask needs one more word for the end that there is not
    compiler = GrammarCompiler(build_vocabulary(byte_level, vocab_size, frozenset(), frozenset()))
    state = GrammarState(compiler.compile('start: "yes"'), compiler.mask_size, "response_format")
    assert all(map(state.accept, compiler.tokenize("yes")))
    assert state.is_complete
    assert compiler.mask_size == vocab_size + 1
    with pytest.raises(GrammarError):
        compiler.compile("start: x")
