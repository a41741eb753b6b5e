"""A real worker keeps answers to their form: streamed, several at once, resumed, beside others, as tool calls."""

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from gpu_worker.protocol import Delta, Finished, ResumeChoice, Structure
from tests.worker.link import Answer, Link, chat, complete

pytestmark = pytest.mark.slow  # real workers: seconds each

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 5, "maxLength": 30},
        "scores": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 9},
            "minItems": 6,
            "maxItems": 9,
        },
    },
    "required": ["title", "scores"],
    "additionalProperties": False,
}
FORM = Structure("json_schema", json.dumps(SCHEMA))
QUESTION = "What is Atrium?"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
MAIL = {"type": "object", "properties": {"urgent": {"type": "boolean"}}, "required": ["urgent"]}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "send_mail", "description": "Sends a mail.", "parameters": MAIL}},
]


def read_calls(answer: Answer, index: int = 0) -> list[tuple[str, Any]]:
    """Name and arguments of each call."""
    calls: dict[int, tuple[str, str]] = {}
    for event in answer.of_type(Delta):
        for piece in event.tool_calls or [] if event.index == index else []:
            name, arguments = calls.get(piece.index, ("", ""))
            calls[piece.index] = (name or piece.name or "", arguments + piece.arguments)
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


async def test_samples_are_valid_in_every_choice(link: Link) -> None:
    fields = {"structure": FORM, "temperature": 1.0, "n": 4, "max_tokens": 300}
    answer = await link.ask(chat("s", QUESTION, **fields))
    assert {end.reason for end in answer.of_type(Finished)} == {"stop"}
    texts = [answer.join(index) for index in range(4)]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 1, "each choice has its own random numbers and its own place in the grammar"
    again = await link.ask(chat("again", QUESTION, **fields))
    assert [again.join(index) for index in range(4)] == texts


async def test_neighbours_do_not_notice(link: Link) -> None:
    free = [chat(f"free{i}", f"Tell me about {i}.", max_tokens=30) for i in range(3)]
    alone = [(await link.ask(request)).token_ids() for request in free]
    bound = [chat(f"bound{i}", QUESTION, structure=FORM, temperature=1.0, max_tokens=300) for i in range(3)]
    answers = await asyncio.gather(*(link.ask(request) for pair in zip(free, bound, strict=True) for request in pair))
    assert [answer.token_ids() for answer in answers[::2]] == alone
    assert {answer.end.reason for answer in answers[1::2]} == {"stop"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_resumed_answer_goes_on_in_its_form(link: Link, temperature: float) -> None:
    fields = {"structure": FORM, "temperature": temperature, "max_tokens": 300}
    whole = await link.ask(chat("whole", QUESTION, **fields))
    tokens = whole.token_ids()
    for num_sent in (1, len(tokens) // 2, len(tokens) - 1, len(tokens)):
        resume = [ResumeChoice(0, tokens[:num_sent])]
        rest = await link.ask(chat(f"rest{num_sent}", QUESTION, resume=resume, **fields))
        assert rest.token_ids() == tokens[num_sent:]
        assert (rest.end.reason, rest.end.usage.completion_tokens) == ("stop", len(tokens))


async def test_usage_counts_what_was_sampled(link: Link) -> None:
    answer = await link.ask(complete("c", "Is it?", structure=Structure("choice", '["yes", "no"]')))
    assert answer.join() in ("yes", "no")
    assert answer.end.usage.completion_tokens == len(answer.token_ids())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_required_call_is_made_whatever_was_asked(link: Link, temperature: float) -> None:
    fields = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}
    answer = await link.ask(chat("r", QUESTION, temperature=temperature, n=3, **fields))
    assert {end.reason for end in answer.of_type(Finished)} == {"tool_calls"}
    for index in range(3):
        ((name, arguments),) = read_calls(answer, index)
        jsonschema.validate(arguments, WEATHER if name == "get_weather" else MAIL)
        assert answer.join(index) == ""


@pytest.mark.parametrize("name", ["get_weather", "send_mail"])
async def test_named_function_is_called(link: Link, name: str) -> None:
    choice = {"type": "function", "function": {"name": name}}
    answer = await link.ask(chat("n", "What is the weather in Rome?", tools=TOOLS, tool_choice=choice, max_tokens=200))
    ((called, arguments),) = read_calls(answer)
    jsonschema.validate(arguments, WEATHER if name == "get_weather" else MAIL)
    assert (called, answer.end.reason, answer.join()) == (name, "tool_calls", "")


async def test_strict_tools_change_nothing_where_the_model_is_right(link: Link) -> None:
    question = "What is the weather in Rome?"
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"name": "get_weather", "description": "Get the current weather in a city.", "parameters": city}
    plain = await link.ask(chat("p", question, tools=[{"type": "function", "function": tool}]))
    strict = await link.ask(chat("s", question, tools=[{"type": "function", "function": tool | {"strict": True}}]))
    assert read_calls(plain) == read_calls(strict) == [("get_weather", {"city": "Rome"})]
    assert plain.token_ids() == strict.token_ids()


async def test_a_form_that_cannot_be_followed_fails_as_the_clients_own(link: Link) -> None:
    stuck = Structure("grammar", 'start: "a" start', "guided_grammar")
    answer = await link.ask(chat("stuck", QUESTION, structure=stuck, max_tokens=20))
    assert answer.end.reason == "length"
    nothing = Structure("grammar", 'start: start "a"', "guided_grammar")
    failed = (await link.ask(chat("nothing", QUESTION, structure=nothing))).end
    assert (failed.code, failed.param) == ("unsupported", "guided_grammar")
