"""Enforced tool calls in the form of every family: a tiny random model with its template, in both engines.

Random weights are the hardest case: nothing but the grammar keeps such a model to a call.
"""

import copy
import functools
import json
from typing import Any, NamedTuple

import jsonschema
import pytest

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request
from gpu_worker.frontend.answer import AnswerStream
from gpu_worker.frontend.prepare import Frontend
from gpu_worker.protocol import Generate, Sampling
from tests.tiny_models import make_one_layer
from tests.worker.engine.driving import make_config, run_all
from tests.worker.frontend.test_families import FAMILIES
from tests.worker.frontend.test_family_answers import build

VOCAB_SIZE = 512
MAX_MODEL_LEN = 2048
# One of each notation.
FAST = ["qwen3", "qwen3_coder", "gemma4", "llama_pythonic", "gpt_oss"]
ALL = [
    pytest.param(name, kind, marks=() if name in FAST else pytest.mark.slow, id=f"{name}-{kind}")
    for name in FAMILIES
    for kind in ("paged", "fallback")
]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "maxLength": 8},
        "unit": {"enum": ["C", "F"]},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}], "default": None},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "code": {"type": "string", "pattern": "^[a-c]{2,4}$"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
        "place": {"$ref": "#/$defs/Place"},
    },
    "required": ["city", "days", "tags"],
    "$defs": {
        "Place": {
            "type": "object",
            "properties": {"exact": {"type": "boolean"}, "level": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["exact"],
            "additionalProperties": False,
        }
    },
}
PING = {"type": "object", "properties": {}}
SCHEMAS = {"get_weather": WEATHER, "ping": PING}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]


class Choice(NamedTuple):
    """What a client gets: finish reason, text, and calls with their arguments as text."""

    reason: str
    text: str
    calls: list[tuple[str, str]]


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@functools.cache
def make_frontend(name: str) -> Frontend:
    return build(name, VOCAB_SIZE)


@functools.cache
def make_engine(kind: str) -> PagedEngine | FallbackEngine:
    config = make_config(engine=kind, max_model_len=MAX_MODEL_LEN, num_blocks=1024)
    return build_engine(copy.deepcopy(make_one_layer(VOCAB_SIZE, MAX_MODEL_LEN)), config).engine


def end_reasoning(frontend: Frontend) -> dict[int, float]:
    """Biases by which a model that has no idea of it closes its reasoning at once, or does not open it."""
    parser = frontend.template.reasoning_parser
    if parser is None:
        return {}
    opening, closing = parser.enclosure
    closing_ids = frontend.tokenizer.encode(closing.partition("<|start|>")[0], add_special_tokens=False)
    if len(closing_ids) == 1:
        return {closing_ids[0]: 100.0}
    tokens = map(frontend.tokenizer.compute_token_bytes, range(VOCAB_SIZE))
    return {i: -100.0 for i, token in enumerate(tokens) if token and opening.encode().startswith(token)}


def ask(name: str, kind: str, max_tokens: int = 1200, **fields: Any) -> list[Choice]:
    """What a client gets of each choice: finish reason, text, and calls."""
    frontend = make_frontend(name)
    sampling = Sampling(seed=3, temperature=1.0, max_tokens=max_tokens, logit_bias=end_reasoning(frontend))
    messages = [{"role": "user", "content": "hi"}]
    message = Generate(id="r", kind="chat", sampling=sampling, messages=messages, tools=TOOLS, **fields)
    prepared = frontend.prepare(message)
    requests = [
        Request(
            id=str(index),
            prompt_token_ids=prepared.prompt_token_ids,
            sampling=sampling,
            max_tokens=prepared.max_tokens,
            choice_index=index,
            eos_token_ids=prepared.eos_token_ids,
            grammar=choice.grammar,
        )
        for index, choice in enumerate(prepared.choices)
    ]
    run_all(make_engine(kind), requests)
    return [read(choice.stream, request) for choice, request in zip(prepared.choices, requests, strict=True)]


def read(stream: AnswerStream, request: Request) -> Choice:
    pieces = [*map(stream.advance, request.output_token_ids), stream.flush()]
    calls: dict[int, tuple[str, str]] = {}
    for delta in [delta for piece in pieces for delta in piece.tool_calls or []]:
        name, arguments = calls.get(delta.index, ("", ""))
        calls[delta.index] = (name or delta.name or "", arguments + delta.arguments)
    assert request.finish_reason is not None
    text = "".join(piece.text for piece in pieces)
    return Choice(stream.final_reason(request.finish_reason), text, list(calls.values()))


def check(call: tuple[str, str]) -> None:
    jsonschema.validate(json.loads(call[1]), SCHEMAS[call[0]])


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_required_call_is_made_in_the_form_of_the_family(name: str, kind: str) -> None:
    for reason, text, calls in ask(name, kind, tool_choice="required", parallel_tool_calls=False, n=2):
        assert (reason, text, len(calls)) == ("tool_calls", "", 1)
        check(calls[0])


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_named_function_is_called_in_the_form_of_the_family(name: str, kind: str) -> None:
    for reason, text, calls in ask(name, kind, tool_choice=NAMED, n=2):
        assert (reason, text, [called for called, _ in calls]) == ("tool_calls", "", ["get_weather"])
        check(calls[0])


@pytest.mark.parametrize("name", FAST)
def test_several_calls_are_all_valid(name: str) -> None:
    """How many, the model decides; one that has no idea may go on until it is cut."""
    for _, text, calls in ask(name, "paged", tool_choice="required", n=2, max_tokens=400):
        for call in calls[:-1]:
            check(call)
        assert calls or text
