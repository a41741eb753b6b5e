"""A request becomes valid or is refused by name: nothing a client can send does anything else."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.prepare import Frontend, Limits, PreparedRequest
from gpu_worker.protocol import (
    Generate,
    ProtocolError,
    ResumeChoice,
    Sampling,
    Structure,
    decode_to_worker,
    encode_to_worker,
)
from tests.worker_process import DEMO_MODEL, DEMO_VOCAB_SIZE

LIMITS = Limits(max_model_len=512, vocab_size=DEMO_VOCAB_SIZE, eos_token_ids=frozenset([2]))
USER = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), LIMITS)


def chat(**fields: Any) -> Generate:
    sampling = fields.pop("sampling", Sampling(seed=1, max_tokens=20))
    return Generate(**({"id": "r", "kind": "chat", "messages": USER, "sampling": sampling} | fields))


def read_answer(frontend: Frontend, request: Generate, text: str) -> tuple[str, str, list[str], str]:
    """What the client gets when the model writes `text` and ends its turn: text, reasoning, calls, finish reason."""
    stream = frontend.prepare(request).choices[0].stream
    finish = None
    pieces = []
    for token_id in [*frontend.tokenizer.encode(text, add_special_tokens=False), 2]:
        pieces.append(stream.advance(token_id))
        if (finish := pieces[-1].finish) is not None:
            break
    pieces.append(stream.flush())
    assert finish is not None
    calls = ["".join(d.arguments for p in pieces for d in p.tool_calls or [] if d.index == i) for i in range(2)]
    return (
        "".join(p.text for p in pieces),
        "".join(p.reasoning for p in pieces),
        [arguments for arguments in calls if arguments],
        stream.final_reason(finish),
    )


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def test_call_of_an_offered_tool_is_a_tool_call(frontend: Frontend) -> None:
    assert read_answer(frontend, chat(tools=TOOLS), CALL) == ("", "", ['{"city": "Paris"}'], "tool_calls")


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_call_of_a_tool_that_is_not_offered_is_text(frontend: Frontend, fields: dict[str, Any]) -> None:
    assert read_answer(frontend, chat(**fields), CALL) == (CALL, "", [], "stop")


def test_tool_choice_none_keeps_tools_out_of_the_prompt(frontend: Frontend) -> None:
    with_tools = frontend.prepare(chat(tools=TOOLS)).prompt_token_ids
    without = frontend.prepare(chat(tools=TOOLS, tool_choice="none")).prompt_token_ids
    assert without == frontend.prepare(chat()).prompt_token_ids
    assert len(with_tools) > len(without)


def test_one_call_only_ends_with_the_first(frontend: Frontend) -> None:
    request = chat(tools=TOOLS, parallel_tool_calls=False)
    assert frontend.prepare(request).ends_by_text
    assert read_answer(frontend, request, f"{CALL}\n{CALL}") == ("", "", ['{"city": "Paris"}'], "tool_calls")


def test_malformed_call_is_text_and_ends_with_stop(frontend: Frontend) -> None:
    text = "<tool_call>\nget_weather(Paris)\n</tool_call>"
    assert read_answer(frontend, chat(tools=TOOLS), text) == (text, "", [], "stop")


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_replayed_tokens_leave_the_stream_where_it_was(frontend: Frontend, cut: int) -> None:
    """Whatever is held back (a call, a stop string, a split character) is held after a resume as well."""
    text = f"Grüße 👩‍👩‍👧 st {CALL}\nEN END"
    token_ids = frontend.tokenizer.encode(text, add_special_tokens=False)
    sampling = Sampling(seed=1, max_tokens=200, stop=("END!", "stop"))
    whole = frontend.prepare(chat(tools=TOOLS, sampling=sampling)).choices[0]
    pieces = [whole.stream.advance(token_id) for token_id in token_ids]
    resume = [ResumeChoice(0, token_ids[:cut])]
    resumed = frontend.prepare(chat(tools=TOOLS, sampling=sampling, resume=resume)).choices[0]
    assert resumed.token_ids == token_ids[:cut]
    rest = [resumed.stream.advance(token_id) for token_id in token_ids[cut:]]
    assert [strip_ids(piece) for piece in rest] == [strip_ids(piece) for piece in pieces[cut:]]
    assert resumed.stream.flush() == whole.stream.flush()
    assert resumed.stream.num_tokens == whole.stream.num_tokens


def strip_ids(piece: Any) -> Any:
    """Call ids are drawn at random: only the piece that carries one may differ."""
    calls = [msgspec.structs.replace(delta, id=delta.id and "id") for delta in piece.tool_calls or []]
    return piece._replace(tool_calls=calls)


def test_resume_that_ends_early_is_finished(frontend: Frontend) -> None:
    choice = frontend.prepare(chat(resume=[ResumeChoice(0, [10, 11, 2, 12])])).choices[0]
    assert (choice.token_ids, choice.finish_reason) == ([10, 11, 2], "stop")
    full = frontend.prepare(chat(resume=[ResumeChoice(0, [10] * 20)])).choices[0]
    assert full.finish_reason == "length"


def test_reasoning_tokens_are_counted(frontend: Frontend) -> None:
    source = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    thinking = Frontend(AutoTokenizer.from_pretrained(DEMO_MODEL), LIMITS, chat_template=source)
    stream = thinking.prepare(chat()).choices[0].stream
    token_ids = thinking.tokenizer.encode("<think>one two</think>Yes, it is.", add_special_tokens=False)
    for token_id in token_ids:
        stream.advance(token_id)
    assert 0 < stream.num_reasoning_tokens < len(token_ids)
    assert read_answer(thinking, chat(), "<think>one</think>Yes.") == ("Yes.", "one", [], "stop")


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"sampling": Sampling(seed=1, max_tokens=9)}, "you requested"),
        ({"sampling": Sampling(seed=1)}, "resulted in"),
    ],
)
def test_overflow_names_the_messages(frontend: Frontend, fields: dict[str, Any], detail: str) -> None:
    with pytest.raises(RequestRejected, match=detail) as rejection:
        frontend.prepare(chat(messages=[{"role": "user", "content": "word " * 2000}], **fields))
    assert (rejection.value.code, rejection.value.param) == ("context_length_exceeded", "messages")


def test_tokens_that_just_fit(frontend: Frontend) -> None:
    def complete(num: int) -> Generate:
        return Generate(id="r", kind="completion", sampling=Sampling(seed=1), prompt=[5] * num)

    assert frontend.prepare(complete(511)).max_tokens == 1
    with pytest.raises(RequestRejected):
        frontend.prepare(complete(512))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def usually(good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any] = JSON) -> st.SearchStrategy[Any]:
    """Mostly what a field should be: a request with every field odd is refused for its first one only."""
    return st.integers(0, 19).flatmap(lambda draw: odd if draw == 19 else good)


TEXT = st.text(max_size=6)
ARGUMENTS = st.sampled_from(['{"a": 1}', "", '{"a": "\\ud800"}', '{"\\ud800": 1}', "[" * 2000, "null"]) | JSON
PART = st.fixed_dictionaries(
    {"type": usually(st.sampled_from(["text", "refusal", "input_text"]), st.just("image_url") | JSON)},
    optional={"text": usually(TEXT), "refusal": usually(TEXT), "media": JSON},
)
TOOL_CALL = st.fixed_dictionaries(
    {"function": usually(st.fixed_dictionaries({"name": usually(TEXT)}, optional={"arguments": ARGUMENTS}))},
    optional={"id": JSON, "type": JSON},
)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
MESSAGE = st.fixed_dictionaries(
    {"role": usually(ROLES, st.just("robot") | JSON)},
    optional={
        "content": usually(TEXT | st.none() | st.lists(usually(PART), max_size=3)),
        "name": usually(TEXT),
        "tool_calls": usually(st.none() | st.lists(usually(TOOL_CALL), max_size=2)),
        "reasoning_content": usually(TEXT),
        "surprise": JSON,
    },
)
FUNCTION = st.fixed_dictionaries(
    {"name": usually(st.text(min_size=1, max_size=4))}, optional={"parameters": st.none() | JSON, "strict": JSON}
)
TOOL = st.fixed_dictionaries({"function": usually(FUNCTION)}, optional={"type": usually(st.just("function"))})
TOKEN_IDS = st.lists(usually(st.integers(0, 2047), st.integers(-3, 3000)), max_size=5)
SAMPLING = st.builds(
    Sampling,
    seed=usually(st.just(1), st.integers(-5, 2**63 - 1)),
    temperature=usually(st.floats(0, 2), st.floats()),
    top_p=usually(st.floats(0.1, 1), st.floats()),
    top_k=usually(st.integers(0, 5), st.integers(-3, 5)),
    logit_bias=st.none()
    | st.dictionaries(st.integers(0, DEMO_VOCAB_SIZE), usually(st.floats(-100, 100), st.floats()), max_size=3),
    max_tokens=st.none() | usually(st.integers(1, 1000), st.integers(-2, 10**12)),
    stop=st.lists(usually(st.text(min_size=1, max_size=3), TEXT), max_size=3).map(tuple),
    stop_token_ids=TOKEN_IDS.map(tuple),
    top_logprobs=st.none() | usually(st.integers(0, 20), st.integers(-1, 50)),
)
KINDS = st.sampled_from(["json_object", "json_schema", "regex", "choice", "grammar"])
STRUCTURE = st.one_of(
    st.just(Structure("json_object")),
    st.builds(Structure, st.just("json_schema"), JSON.map(json.dumps)),
    st.builds(Structure, st.just("choice"), st.lists(st.text(max_size=3), max_size=3).map(json.dumps)),
    st.builds(Structure, st.just("regex"), st.text(min_size=1, max_size=8)),
)
GENERATE = st.builds(
    Generate,
    id=TEXT,
    kind=st.sampled_from(["chat", "chat", "completion"]),
    sampling=SAMPLING,
    messages=usually(st.lists(MESSAGE, min_size=1, max_size=4), st.none() | st.just([])),
    prompt=usually(st.text(min_size=1, max_size=20), st.none() | TOKEN_IDS),
    tools=st.none() | st.lists(usually(TOOL), max_size=2),
    tool_choice=usually(
        st.sampled_from([None, "auto", "none"]),
        st.sampled_from(["required", {"type": "function", "function": {"name": "f"}}]) | JSON,
    ),
    chat_template_kwargs=usually(st.none(), st.dictionaries(TEXT | st.just("tokenize"), JSON, max_size=2)),
    continue_final_message=usually(st.just(False), st.booleans()),
    echo=usually(st.just(False), st.booleans()),
    n=usually(st.just(2), st.integers(-1, 3)),
    weight=usually(st.just(1.0), st.floats()),
    parallel_tool_calls=st.booleans(),
    structure=st.none() | usually(STRUCTURE, st.builds(Structure, KINDS, st.text(max_size=8))),
    resume=st.none()
    | usually(
        st.lists(st.builds(ResumeChoice, st.integers(0, 1), TOKEN_IDS), max_size=2),
        st.lists(st.builds(ResumeChoice, st.integers(-1, 3), TOKEN_IDS), max_size=2),
    ),
)


def prepare_or_refuse(frontend: Frontend, message: Generate) -> PreparedRequest | RequestRejected:
    try:
        return frontend.prepare(message)
    except RequestRejected as rejection:
        return rejection


@settings(max_examples=250, deadline=None)
@given(request=GENERATE)
def test_any_request_is_prepared_or_refused_by_name(frontend: Frontend, request: Generate) -> None:
    try:
        (message,) = decode_to_worker(encode_to_worker(request))
    except (ProtocolError, OverflowError, UnicodeEncodeError):  # cannot be put into a frame, or read from one
        return
    assert isinstance(message, Generate)
    prepared = prepare_or_refuse(frontend, message)
    if isinstance(prepared, RequestRejected):
        event(f"refused: {prepared.param and prepared.param.partition('[')[0]}")
        assert prepared.message
        assert prepared.param
        return
    event(f"prepared: {message.kind}")
    assert 0 < len(prepared.prompt_token_ids) < LIMITS.max_model_len
    assert len(prepared.prompt_token_ids) + prepared.max_tokens <= LIMITS.max_model_len
    assert all(0 <= token_id < LIMITS.vocab_size for token_id in prepared.prompt_token_ids)
    assert len(prepared.choices) == message.n
