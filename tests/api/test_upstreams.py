"""Models that run elsewhere: another Atrium behind this one, and servers that break."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apps.registry import directory, upstreams
from apps.registry.models import Engine, HostedModel
from apps.usage.models import UsageStatus
from gpu_worker.protocol import Delta, TokenLogprob, ToolCallDelta, TopLogprob
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.sse import parse_events
from tests.factories import make_model
from tests.scripted_http import (
    Handler,
    ScriptedHttp,
    answer_json,
    answer_stream,
    make_chunk,
    make_usage,
    run_scripted_http,
)
from tests.scripted_worker import Answer, ScriptedWorker

HELLO = [{"role": "user", "content": "hello"}]
HELLO_CHUNKS = [make_chunk(role="assistant"), make_chunk("Hel"), make_chunk("lo"), make_chunk(finish="stop")]


def make_upstream(name: str, url: str, *, source: str, secret: str = "", **fields: Any) -> HostedModel:
    """A model that runs at this address."""
    model = make_model(name, source=source, engine=Engine.UPSTREAM, upstream_url=url, **fields)
    upstreams.set_secret(model, secret)
    model.save()
    directory.invalidate()
    return model


@pytest.fixture(autouse=True)
def allow_this_machine(settings: Any) -> None:
    settings.UPSTREAM_PRIVATE_HOSTS = ["127.0.0.1"]


@pytest.fixture
def twin(chat_api: Api) -> Api:
    """The model "twin" is the model "scripted" of the same server, asked through its own API."""
    make_upstream("twin", f"{chat_api.url}/v1", source="scripted", secret=chat_api.secret, upstream_dialect="atrium")
    return chat_api


@pytest.fixture
def upstream() -> Iterator[ScriptedHttp]:
    with run_scripted_http() as server:
        yield server


@pytest.fixture
def far(upstream: ScriptedHttp, api: Api) -> Api:
    """The model "far" is "there" at the scripted server."""
    make_upstream("far", upstream.url, source="there", secret="sk-there")
    return api


def ask(api: Api, model: str = "far", **fields: Any) -> Any:
    return api.post("/v1/chat/completions", {"model": model, "messages": HELLO, **fields})


def get_usage(model: str, num_rows: int) -> dict[str, Any]:
    row = next(row for row in wait_for_settled_rows(num_rows) if row.model_name == model)
    return {"status": row.status, "prompt": row.prompt_tokens, "completion": row.completion_tokens}


def test_a_stream_is_that_of_the_server_behind_and_counts_the_same(twin: Api, worker: ScriptedWorker) -> None:
    answer = worker.reply(Answer(prompt_tokens=9, cached_tokens=4, reason="length"))
    response = ask(twin, "twin", stream=True, stream_options={"include_usage": True})
    events = parse_events(response.text)
    chunks = [event for event in events if event["choices"]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == answer.text
    assert {chunk["model"] for chunk in chunks} == {"twin"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    rows = {row.model_name: row for row in wait_for_settled_rows(2)}
    for name in ("twin", "scripted"):
        assert (rows[name].status, rows[name].finish_reason) == (UsageStatus.OK, "length")
        assert (rows[name].prompt_tokens, rows[name].cached_tokens, rows[name].completion_tokens) == (9, 4, 6)


def test_calls_reasoning_logprobs_and_choices_pass(twin: Api, worker: ScriptedWorker) -> None:
    call = ToolCallDelta(0, "call_1", "get_weather", '{"city"')
    logprob = TokenLogprob(7, "hm", -0.5, b"hm", [TopLogprob(7, "hm", -0.5, b"hm"), TopLogprob(8, "oh", -1.5, b"oh")])
    deltas = (
        Delta("", reasoning="hm"),
        Delta("", text="so", logprobs=[logprob]),
        Delta("", tool_calls=[call]),
        Delta("", tool_calls=[ToolCallDelta(0, arguments=': "Seoul"}')]),
    )
    worker.reply(Answer(deltas=deltas, reason="tool_calls"))
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    fields = {"n": 2, "tools": tools, "logprobs": True, "top_logprobs": 2, "seed": 5}
    there, here = (ask(twin, name, **fields).json() for name in ("scripted", "twin"))
    assert here["choices"] == there["choices"]
    assert here["usage"] == there["usage"]
    assert here["choices"][1]["message"]["reasoning_content"] == "hm"
    assert here["choices"][0]["finish_reason"] == "tool_calls"
    get_usage("twin", 3)


def test_text_completions_pass(twin: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", stop=";")
    body = {"prompt": "once", "max_tokens": 7, "stop": [";"], "top_k": 3}
    there, here = (twin.post("/v1/completions", {"model": name, **body}).json() for name in ("scripted", "twin"))
    assert [choice["text"] for choice in here["choices"]] == ["ab"]
    assert here["choices"] == there["choices"]
    asked = worker.generates[-1]
    assert (asked.prompt, asked.sampling.max_tokens, asked.sampling.top_k, asked.sampling.stop) == (
        "once",
        7,
        3,
        (";",),
    )
    get_usage("twin", 3)


def test_who_leaves_ends_the_work_at_the_server_behind(twin: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer.of("one", "two", "three", hold_after=2))
    body = json.dumps({"model": "twin", "messages": HELLO, "stream": True}).encode()
    with twin.connect("/v1/chat/completions", body) as connection:
        response = connection.getresponse()
        while b"two" not in response.readline():
            pass
    worker.wait_for(lambda w: bool(w.aborted))
    assert get_usage("twin", 2) == {"status": UsageStatus.CANCELLED, "prompt": 0, "completion": 2}


def test_the_request_carries_the_secret_and_only_what_somebody_set(far: Api, upstream: ScriptedHttp) -> None:
    upstream.stream(*HELLO_CHUNKS, make_usage(3, 2))
    answer = ask(far, temperature=1, max_tokens=9).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert upstream.paths == ["/v1/chat/completions"]
    assert upstream.headers[0]["Authorization"] == "Bearer sk-there"
    assert upstream.bodies == [
        {
            "model": "there",
            "messages": HELLO,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 1,
            "max_tokens": 9,
        }
    ]
    assert get_usage("far", 1) == {"status": UsageStatus.OK, "prompt": 3, "completion": 2}


def test_tokens_are_counted_by_chunks_where_the_server_says_no_usage(far: Api, upstream: ScriptedHttp) -> None:
    upstream.stream(*HELLO_CHUNKS, done=False)
    answer = ask(far).json()
    assert answer["usage"]["completion_tokens"] == 2
    assert get_usage("far", 1) == {"status": UsageStatus.OK, "prompt": 0, "completion": 2}


def test_embeddings_pass(far: Api, upstream: ScriptedHttp) -> None:
    data = [{"object": "embedding", "index": i, "embedding": [0.5, float(i)]} for i in (1, 0)]
    upstream.handler = answer_json({"object": "list", "data": data, "usage": {"prompt_tokens": 6, "total_tokens": 6}})
    answer = far.post("/v1/embeddings", {"model": "far", "input": ["a", "b"], "dimensions": 2}).json()
    assert [item["embedding"] for item in answer["data"]] == [[0.5, 0.0], [0.5, 1.0]]
    assert upstream.bodies[0] == {"model": "there", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2}
    assert get_usage("far", 1) == {"status": UsageStatus.OK, "prompt": 6, "completion": 0}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"enable_thinking": False}, "enable_thinking"),
    ],
    ids=["top_k", "guided_regex", "chat_template_kwargs", "enable_thinking"],
)
def test_what_the_server_does_not_know_is_refused_by_name(
    far: Api, upstream: ScriptedHttp, fields: dict[str, Any], param: str
) -> None:
    response = ask(far, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert upstream.bodies == []
    wait_for_settled_rows(1)


def test_tokens_and_scores_of_an_upstream_are_refused(far: Api) -> None:
    for path, body in (
        ("/tokenize", {"prompt": "a"}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
    ):
        response = far.post(path, {"model": "far", **body})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "model"), path
    wait_for_settled_rows(1)


FAILURES: list[tuple[str, Callable[[], Handler], int, str | None]] = [
    ("bad-request", lambda: answer_json({"error": {"message": "no such", "param": "seed"}}, 400), 400, None),
    (
        "too-long",
        lambda: answer_json({"message": "This model's maximum context length is 8 tokens", "code": 400}, 400),
        400,
        "context_length_exceeded",
    ),
    ("wrong-secret", lambda: answer_json({"error": {"message": "Incorrect key sk-th"}}, 401), 503, "upstream_refused"),
    ("redirect", lambda: answer_json({}, 302, Location="http://127.0.0.1:1/"), 503, "upstream_refused"),
    ("limit", lambda: answer_json({"error": "slow down"}, 429, **{"Retry-After": "7"}), 503, "upstream_overloaded"),
    ("failure", lambda: answer_json({"error": {"message": "Traceback"}}, 500), 503, "upstream_error"),
    ("no-events", lambda: answer_json({"choices": []}), 503, "upstream_error"),
    ("nonsense", lambda: answer_stream("data: {nonsense\n\n"), 503, "upstream_error"),
    ("cut", lambda: answer_stream(*HELLO_CHUNKS[:2], cut=True), 503, "upstream_error"),
    ("unfinished", lambda: answer_stream(*HELLO_CHUNKS[:2]), 503, "upstream_error"),
    ("error-event", lambda: answer_stream(make_chunk("Hel"), {"error": {"message": "x"}}), 503, "upstream_error"),
]


@pytest.mark.parametrize(("handler", "status", "code"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES])
def test_failures_become_ours(
    far: Api, upstream: ScriptedHttp, handler: Callable[[], Handler], status: int, code: str | None
) -> None:
    upstream.handler = handler()
    response = ask(far)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert "sk-" not in error["message"]
    assert "Traceback" not in error["message"]
    if code == "upstream_overloaded":
        assert response.headers["retry-after"] == "7"
    assert get_usage("far", 1)["status"] == UsageStatus.ERROR


def test_a_stream_that_is_cut_ends_in_an_error_event_and_counts_what_came(far: Api, upstream: ScriptedHttp) -> None:
    upstream.handler = answer_stream(*HELLO_CHUNKS[:3], cut=True)
    response = ask(far, stream=True)
    events = parse_events(response.text)
    assert events[-1]["error"]["code"] == "upstream_error"
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == "Hello"
    assert get_usage("far", 1) == {"status": UsageStatus.ERROR, "prompt": 0, "completion": 2}


def test_a_server_that_hangs_is_given_up(far: Api, upstream: ScriptedHttp, settings: Any) -> None:
    settings.UPSTREAM_TIMEOUT_S = 1.0
    upstream.handler = answer_stream(make_chunk("Hel"), hang=True)
    response = ask(far)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "upstream_timeout")
    assert upstream.left.wait(30)
    wait_for_settled_rows(1)


def test_no_server_and_no_allowed_address(api: Api, settings: Any) -> None:
    make_upstream("gone", "http://127.0.0.1:9/v1", source="there")
    assert ask(api, "gone").json()["error"]["code"] == "upstream_unreachable"
    settings.UPSTREAM_PRIVATE_HOSTS = []
    for name, host in (("number", "127.0.0.1"), ("name", "localhost")):
        model = make_upstream(name, f"http://{host}:9/v1", source="there")
        assert ask(api, name).json()["error"]["code"] == "upstream_unreachable"
        assert "not a public one" in upstreams.check(model)
    wait_for_settled_rows(3)


def test_an_edited_address_is_used_by_the_next_request(far: Api, upstream: ScriptedHttp) -> None:
    upstream.stream(*HELLO_CHUNKS)
    with run_scripted_http() as other:
        other.stream(make_chunk("other"), make_chunk(finish="stop"))
        assert ask(far).json()["choices"][0]["message"]["content"] == "Hello"
        HostedModel.objects.update(upstream_url=other.url)
        directory.invalidate()
        assert ask(far).json()["choices"][0]["message"]["content"] == "other"
    wait_for_settled_rows(2)
