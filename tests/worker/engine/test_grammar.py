"""Answers that must have a form: a tiny random model with the demo model's vocabulary, in both engines.

Random weights are the hardest case: nothing but the grammar keeps such a model to JSON.
"""

import copy
import functools
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gpu_worker.engine.build import build_engine
from gpu_worker.engine.fallback import FallbackEngine
from gpu_worker.engine.lifecycle import GRAMMAR_LEFT
from gpu_worker.engine.paged import PagedEngine
from gpu_worker.engine.request import Request, TokenOutput
from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.protocol import Generate, Sampling, Structure
from tests.tiny_models import make_one_layer
from tests.worker.engine.driving import make_config, run_all
from tests.worker_process import DEMO_MODEL, DEMO_VOCAB_SIZE

VOCAB_SIZE = DEMO_VOCAB_SIZE + 7  # a few more than the tokenizer has, as checkpoints pad their embeddings
EOS_TOKEN_ID = 2
MAX_MODEL_LEN = 512
ENGINES = ["paged", "fallback"]
GUESSING = "paged, guessing"


@functools.cache
def make_frontend() -> Frontend:
    limits = Limits(max_model_len=MAX_MODEL_LEN, vocab_size=VOCAB_SIZE, eos_token_ids=frozenset({EOS_TOKEN_ID}))
    return Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), limits)


def make_engine(kind: str, **changes: Any) -> PagedEngine | FallbackEngine:
    fields = {"engine": kind, "max_model_len": MAX_MODEL_LEN, "num_blocks": 512} | changes
    if kind == GUESSING:
        fields |= {"engine": "paged", "speculation": "ngram"}
    return build_engine(
        copy.deepcopy(make_one_layer(VOCAB_SIZE, MAX_MODEL_LEN, EOS_TOKEN_ID)), make_config(**fields)
    ).engine


def prepare(structure: Structure | None, **sampling: Any) -> list[Request]:
    """The engine's requests for a message of two choices; greedy unless told otherwise."""
    fields = {"seed": 5, "temperature": 0.0, "max_tokens": 300} | sampling
    message = Generate(
        id="r", kind="completion", prompt="Say it:", sampling=Sampling(**fields), n=2, structure=structure
    )
    prepared = make_frontend().prepare(message)
    return [
        Request(
            id=f"{structure}-{fields}-{index}",
            prompt_token_ids=prepared.prompt_token_ids,
            sampling=message.sampling,
            max_tokens=prepared.max_tokens,
            choice_index=index,
            eos_token_ids=prepared.eos_token_ids,
            grammar=choice.grammar,
        )
        for index, choice in enumerate(prepared.choices)
    ]


def structure_of(schema: Any) -> Structure:
    return Structure("json_schema", json.dumps(schema))


def read_text(request: Request) -> str:
    token_ids = [token for token in request.output_token_ids if token != EOS_TOKEN_ID]
    return make_frontend().tokenizer.decode(token_ids)


def run(engine: PagedEngine | FallbackEngine, requests: list[Request]) -> list[TokenOutput]:
    return [output for output in run_all(engine, requests) if output.finish_reason or output.error]


SCALARS = st.sampled_from(
    [
        {"type": "string", "maxLength": 6},
        {"type": "string", "pattern": "^[a-c]{2,4}$"},
        {"type": "string", "format": "date"},
        {"type": "integer", "minimum": -20, "maximum": 300},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 2, "multipleOf": 0.25},
        {"type": "boolean"},
        {"type": ["null", "boolean"]},
        {"enum": ["red", 'gr"een', 7, None, {"deep": [1]}]},
        {"const": "été 한"},
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "maxLength": 3}]},
        {"$ref": "#/$defs/point"},
    ]
)
NAMES = st.sampled_from(["a", "name", "no way", 'quo"ted', "키", "back\\slash"])


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def require(pair: tuple[dict[str, Any], bool]) -> dict[str, Any]:
        properties, is_closed = pair
        schema = {"type": "object", "properties": properties, "required": list(properties)[::2]}
        return schema | ({"additionalProperties": False} if is_closed else {})

    return st.tuples(st.dictionaries(NAMES, inner, max_size=3), st.booleans()).map(require)


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )


SCHEMAS = st.recursive(SCALARS, lambda inner: objects(inner) | arrays(inner), max_leaves=4).map(
    lambda schema: {
        **schema,
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}},
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_samples_of_any_schema_are_valid(schema: Any, seed: int) -> None:
    requests = prepare(structure_of(schema), seed=seed, temperature=1.0, max_tokens=400)
    ends = run(shared_engine(), requests)
    assert [end.finish_reason for end in ends] == ["stop", "stop"]
    for request in requests:
        jsonschema.validate(json.loads(read_text(request)), schema)


@functools.cache
def shared_engine() -> PagedEngine | FallbackEngine:
    return make_engine("paged")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
}
FORMS = [
    structure_of(PERSON),
    Structure("regex", r"\d{3}-[a-f]{2,5}"),
    Structure("choice", '["yes", "no", "perhaps not"]'),
    Structure("grammar", 'root ::= "(" root ")" | [0-9]'),
]


def make_mixed() -> list[Request]:
    """Constrained and free rows side by side, greedy and sampled."""
    rows = [prepare(form, temperature=temperature) for form in FORMS for temperature in (0.0, 1.0)]
    free = [prepare(None, temperature=temperature, max_tokens=40) for temperature in (0.0, 1.0)]
    return [request for pair in (*rows, *free) for request in pair]


@pytest.mark.parametrize("kind", [*ENGINES, GUESSING])
def test_a_batch_changes_nobodys_tokens(kind: str) -> None:
    alone = make_engine("paged")
    expected = {}
    for request in make_mixed():
        run(alone, [request])
        expected[request.id] = (request.output_token_ids, request.finish_reason)
    together = make_mixed()
    run(make_engine(kind), together)
    assert {r.id: (r.output_token_ids, r.finish_reason) for r in together} == expected


def test_preemption_changes_nothing() -> None:
    ample, scarce = make_mixed(), make_mixed()
    run(make_engine("paged"), ample)
    run(make_engine("paged", num_blocks=30, max_model_len=120, max_num_seqs=20), scarce)
    assert any(request.num_preemptions for request in scarce)
    assert [r.output_token_ids for r in scarce] == [r.output_token_ids for r in ample]


@pytest.mark.parametrize("kind", ENGINES)
def test_an_answer_ends_as_soon_as_nothing_can_follow(kind: str) -> None:
    (request, _) = prepare(Structure("choice", '["yes"]'), min_tokens=20)
    (end,) = run(make_engine(kind), [request])
    assert (end.finish_reason, read_text(request)) == ("stop", "yes")
    assert EOS_TOKEN_ID not in request.output_token_ids


def test_an_answer_may_end_only_where_its_form_does() -> None:
    requests = prepare(Structure("regex", "[ab]{5,}"), logit_bias={EOS_TOKEN_ID: 100.0})
    run(shared_engine(), requests)
    assert {(len(read_text(r)), r.output_token_ids[-1]) for r in requests} == {(5, EOS_TOKEN_ID)}


def test_min_tokens_delays_an_end_that_is_possible() -> None:
    requests = prepare(Structure("regex", "[ab]+"), logit_bias={EOS_TOKEN_ID: 100.0}, min_tokens=30)
    run(shared_engine(), requests)
    assert {(len(r.output_token_ids), r.finish_reason) for r in requests} == {(31, "stop")}


def test_bias_and_penalties_work_within_the_form() -> None:
    no = make_frontend().tokenizer.encode("no", add_special_tokens=False)[0]
    requests = prepare(Structure("choice", '["yes", "no"]'), logit_bias={no: 100.0}, repetition_penalty=1.5)
    run(shared_engine(), requests)
    assert {read_text(request) for request in requests} == {"no"}


def test_log_probabilities_are_of_the_model_itself() -> None:
    requests = prepare(Structure("choice", '["yes"]'), top_logprobs=3)
    outputs = run_all(shared_engine(), requests)
    assert all(output.logprobs is not None and output.logprobs.logprob < -0.5 for output in outputs)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_form_that_no_text_has_fails_its_request_alone(kind: str) -> None:
    stuck = prepare(Structure("grammar", 'start: start "a"', param="guided_grammar"))
    fine = prepare(FORMS[2], temperature=1.0)
    ends = {end.request.id: end for end in run(make_engine(kind), [*stuck, *fine])}
    assert {ends[r.id].finish_reason for r in fine} == {"stop"}
    for request in stuck:
        end = ends[request.id]
        assert (end.error, end.error_code, end.error_param) == (GRAMMAR_LEFT, "unsupported", "guided_grammar")


def test_hard_patterns_are_followed_or_refused_and_hold_nobody_up() -> None:
    hard = [r"(.*a.{1,300}b){5}", r"((((a{1,100}){1,100}){1,100}){1,100}){1,100}b", r"([ab]*a[ab]{25}){3}c"]
    requests = [r for pattern in hard for r in prepare(Structure("regex", pattern), temperature=1.0, max_tokens=60)]
    ends = run(shared_engine(), requests)
    assert all(end.finish_reason in ("stop", "length") or end.error == GRAMMAR_LEFT for end in ends)
