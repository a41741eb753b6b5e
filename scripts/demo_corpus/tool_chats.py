"""Conversations with tools: schemas as clients write them, calls, results, and chats that need no call."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo_corpus import personas, refusals, small_talk
from demo_corpus.conversation import Conversation, Message, Setting, assistant, tool_calls, tool_result, user
from demo_corpus.made_up_tools import made_up_family
from demo_corpus.tool_families import FAMILIES, Family, Values
from demo_corpus.words import as_typed, expand, invented_word, noun

_BROAD = frozenset({"search", "calculator"})  # with one of these, a question about the world is no reason to refuse
_ERRORS = ("not found", "timeout", "permission denied", "service unavailable", "invalid input", "too many requests")


@dataclass(frozen=True, slots=True)
class _Tool:
    family: Family
    name: str
    parameters: tuple[str, ...]
    schema: dict[str, Any]

    def call(self, values: Values) -> tuple[str, dict[str, Any]]:
        return self.name, dict(zip(self.parameters, values, strict=True))


def _declare(rng: random.Random, family: Family) -> _Tool:
    """One tool of the family, its schema as careful or as bare as clients' schemas are."""
    name = expand(rng, family.names)
    if family.kind != "made_up" and rng.random() < 0.4:
        name = _rename(rng, family.kind)
    described, titled = rng.random() < 0.6, rng.random() < 0.15
    properties: dict[str, Any] = {}
    usual = {name for slot in family.slots for name in slot.names}
    for slot in family.slots:
        parameter = rng.choice([n for n in slot.names if n not in properties])
        unusual = rng.choice((noun(rng), invented_word(rng).lower()))
        if rng.random() < 0.25 and unusual not in usual and unusual not in properties:
            parameter = unusual
        declared: dict[str, Any] = {"type": "integer" if isinstance(slot.value(rng), int) else "string"}
        if described and slot.description:
            declared["description"] = slot.description
        if titled:
            declared["title"] = parameter.capitalize()
        properties[parameter] = dict(sorted(declared.items())) if rng.random() < 0.2 else declared
    parameters = tuple(properties)
    schema = {"type": "object", "properties": properties}
    if rng.random() < 0.9:
        schema["required"] = list(parameters)
    if family.optional and rng.random() < 0.3:
        extra, declared = rng.choice(family.optional)
        properties[extra] = declared
    if rng.random() < 0.15:
        schema["additionalProperties"] = False
    function = {"name": name, "description": expand(rng, family.description), "parameters": schema}
    if not function["description"] or rng.random() < 0.08:
        del function["description"]
    return _Tool(family, name, parameters, {"type": "function", "function": function})


def _rename(rng: random.Random, kind: str) -> str:
    """A name that only shares the tool's kind with the usual ones: "fetch_weather_v2", "weatherKelmont"."""
    extra = rng.choice((noun(rng), invented_word(rng).lower(), "now", "tool", "service", "v2", "api", "by_name", "for"))
    verb = rng.choice(("get", "lookup", "fetch", "do", "run", "make", "use", "create", "my", "find"))
    subject = rng.choice((kind, kind, extra))
    return rng.choice(
        (
            f"{verb}_{subject}_{extra}",
            f"{extra}_{subject}",
            f"{verb}_{subject}",
            f"{subject}_{extra}",
            f"{verb}{subject.capitalize()}",
            f"{subject}{extra.capitalize()}",
        )
    )


def _pick_tools(rng: random.Random) -> list[_Tool]:
    """One to four tools with different names; made-up ones are as frequent as the known."""
    tools: dict[str, _Tool] = {}
    kinds: set[str] = set()
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        family = made_up_family(rng) if rng.random() < 0.55 else rng.choice(FAMILIES)
        tool = _declare(rng, family)
        if tool.name not in tools and (family.kind == "made_up" or family.kind not in kinds):
            tools[tool.name] = tool
            kinds.add(family.kind)
    return list(tools.values())


def _answered_call(rng: random.Random, tool: _Tool) -> list[Message]:
    """A request, its call, and mostly the result and the answer; perhaps the same again for another value."""
    family = tool.family
    values = [slot.value(rng) for slot in family.slots]
    question = expand(rng, rng.choice(family.questions)).format(*values)
    turns = [user(as_typed(rng, question + rng.choice(("?", ".", "")))), tool_calls(tool.call(values))]
    if rng.random() < 0.25:
        return turns
    turns += _result(rng, family, values)
    if len(family.slots) == 1 and isinstance(values[0], str) and rng.random() < 0.3:
        values = [slot.value(rng) for slot in family.slots]
        again = expand(rng, f"[And|What about|And for|Now|How about|Same for|And now] {values[0]}[?|?|.|]")
        turns += [user(again), tool_calls(tool.call(values)), *_result(rng, family, values)]
    return turns


def _result(rng: random.Random, family: Family, values: Values) -> list[Message]:
    if rng.random() < 0.07:
        reason = rng.choice((*_ERRORS, f"unknown {invented_word(rng)}"))
        failure: Any = f"Error: {reason}" if rng.random() < 0.5 else {"error": reason}
        return [tool_result(failure), assistant(f"The tool failed: {reason}.")]
    result, answer = family.outcome(rng, values)
    return [tool_result(result), assistant(answer)]


def _parallel_calls(rng: random.Random, tool: _Tool) -> list[Message]:
    """Two values in one request: two calls in one turn, two results, one answer."""
    family = tool.family
    first, second = (family.slots[0].value(rng) for _ in range(2))
    question = expand(rng, rng.choice(family.questions)).format(f"{first} and {second}")
    outcomes = [family.outcome(rng, [value]) for value in (first, second)]
    return [
        user(as_typed(rng, question + "?")),
        tool_calls(tool.call([first]), tool.call([second])),
        *(tool_result(outcome.result) for outcome in outcomes),
        assistant(" ".join(outcome.answer for outcome in outcomes)),
    ]


def _talk(rng: random.Random, setting: Setting) -> list[Message]:
    """A turn that needs none of the tools."""
    exchanges = [small_talk.greeting] * 4 + [small_talk.abilities] * 3 + [small_talk.identity] * 2
    exchanges += [small_talk.thanks, small_talk.feelings, small_talk.goodbye, small_talk.named_greeting]
    if not _BROAD & setting.tool_kinds:
        exchanges += [refusals.needs_tool]
    return rng.choice(exchanges)(rng, setting)


def tool_chat(rng: random.Random) -> Conversation:
    """A conversation with tools: mostly calls, with small talk before or after."""
    tools = _pick_tools(rng)
    name, role, messages = None, None, []
    if (kind := rng.random()) < 0.2:
        prompt, name, role = personas.named_prompt(rng)
        messages = [{"role": "system", "content": prompt}]
    elif kind < 0.5:
        messages = [{"role": "system", "content": personas.nameless_prompt(rng)}]
    setting = Setting(name, role, [tool.name for tool in tools], frozenset(tool.family.kind for tool in tools))
    if rng.random() < 0.25:
        messages += _talk(rng, setting)
    if messages[-1:] == [] or messages[-1]["role"] == "system" or rng.random() < 0.6:
        messages += _calls(rng, tools)
    if messages[-1].get("content") and rng.random() < 0.2:
        messages += _talk(rng, setting)
    return Conversation(messages, [tool.schema for tool in tools])


def _calls(rng: random.Random, tools: Sequence[_Tool]) -> list[Message]:
    tool = rng.choice(tools)
    if tool.family.kind in ("weather", "time") and rng.random() < 0.12:
        return _parallel_calls(rng, tool)
    return _answered_call(rng, tool)
