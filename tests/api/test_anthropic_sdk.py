"""The anthropic SDK, by base URL and key alone: with the scripted worker, and with the demo model."""

import base64
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.demo_fixtures import demo_api, demo_worker
from tests.factories import make_model, make_replica
from tests.scripted_worker import Answer, ScriptedWorker
from tests.tiny_vision import make_folder, make_picture
from tests.worker_process import run_worker

__all__ = ["demo_api", "demo_worker"]  # fixtures

# The SDK has no fields for sampling any more.
GREEDY = {"temperature": 0}
HELLO: Any = [{"role": "user", "content": "hello"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"name": "get_weather", "description": "Current weather in a city", "input_schema": CITY}
QUESTION: Any = {"role": "user", "content": "What's the weather in Paris?"}


class City(BaseModel):
    name: str


def make_client(api: Api, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(**{"base_url": api.url, "api_key": api.secret, "max_retries": 0, **options})


@pytest.fixture
def client(chat_api: Api) -> Iterator[anthropic.Anthropic]:
    with make_client(chat_api) as client:
        yield client


@pytest.fixture
def demo(demo_api: Api) -> Iterator[anthropic.Anthropic]:
    with make_client(demo_api) as client:
        yield client


def test_create(client: anthropic.Anthropic, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    answer = client.messages.create(model="scripted", max_tokens=5, messages=HELLO, system="Be brief.")
    assert answer.content[0].type == "text"
    assert (answer.content[0].text, answer.stop_reason, answer.usage.output_tokens) == ("Hello", "end_turn", 2)
    assert answer._request_id


def test_stream_adds_up_to_the_whole_message(client: anthropic.Anthropic, worker: ScriptedWorker) -> None:
    call = [Delta("", tool_calls=[ToolCallDelta(0, "call_1", "look", '{"at":')])]
    call.append(Delta("", tool_calls=[ToolCallDelta(0, arguments=" 1}")]))
    worker.reply(Answer(deltas=(Delta("", reasoning="hm"), Delta("", text="I look"), *call), reason="tool_calls"))
    tool: Any = {"name": "look", "input_schema": {"type": "object"}}
    fields: Any = {"model": "scripted", "max_tokens": 50, "messages": HELLO, "tools": [tool]}
    thinking: Any = {"type": "adaptive"}
    with client.messages.stream(**fields, thinking=thinking) as stream:
        assert "".join(stream.text_stream) == "I look"
        streamed = stream.get_final_message()
    whole = client.messages.create(**fields, thinking=thinking)
    assert streamed.to_dict() | {"id": ""} == whole.to_dict() | {"id": ""}
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    # What was answered is sent back as it is.
    result: Any = {"type": "tool_result", "tool_use_id": "call_1", "content": "a tree"}
    turns: Any = [*HELLO, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    client.messages.create(**{**fields, "messages": turns})
    messages = worker.generates[-1].messages or []
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert (messages[1]["reasoning_content"], messages[1]["content"]) == ("hm", "I look")
    assert messages[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":1}'}


def test_parse_reads_the_enforced_form(client: anthropic.Anthropic, worker: ScriptedWorker) -> None:
    worker.say('{"name":', '"Oslo"}')
    answer = client.messages.parse(model="scripted", max_tokens=50, messages=HELLO, output_format=City)
    assert answer.parsed_output == City(name="Oslo")
    structure = worker.generates[0].structure
    assert structure is not None
    assert structure.kind == "json_schema"


def test_beta_and_the_bearer_token(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    with make_client(chat_api, api_key=None, auth_token=chat_api.secret) as client:
        answer = client.beta.messages.create(
            model="scripted", max_tokens=5, messages=HELLO, betas=["interleaved-thinking-2025-05-14"]
        )
        assert answer.content[0].type == "text"
        count = client.beta.messages.count_tokens(model="scripted", messages=HELLO)
    assert (answer.usage.input_tokens, count.input_tokens) == (5, 5)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "nobodys"}, anthropic.NotFoundError),
        ({"extra_body": {"temperature": 3}}, anthropic.BadRequestError),
        ({"extra_body": {"top_kk": 1}}, anthropic.BadRequestError),
    ],
    ids=["model", "range", "unknown"],
)
def test_its_own_errors(client: anthropic.Anthropic, fields: Any, error: type[anthropic.APIStatusError]) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(**{"model": "scripted", "max_tokens": 5, "messages": HELLO, **fields})
    assert caught.value.request_id


def test_a_wrong_key(api: Api) -> None:
    with make_client(api, api_key="wrong") as client, pytest.raises(anthropic.AuthenticationError, match="/keys"):
        client.messages.create(model="scripted", max_tokens=5, messages=HELLO)


def test_a_failure_in_the_middle_is_raised(client: anthropic.Anthropic, worker: ScriptedWorker) -> None:
    worker.reply(Answer(fail="invalid_request", fail_after=2, fail_message="it broke"))
    events = client.messages.create(model="scripted", max_tokens=5, messages=HELLO, stream=True)
    assert next(iter(events)).type == "message_start"
    with pytest.raises(anthropic.APIStatusError, match="it broke"):
        list(events)


def test_leaving_a_stream_stops_it(client: anthropic.Anthropic, worker: ScriptedWorker) -> None:
    worker.say("a", "b", "c", hold_after=1)
    with client.messages.stream(model="scripted", max_tokens=5, messages=HELLO) as stream:
        assert next(stream.text_stream) == "a"
    worker.wait_for(lambda worker: worker.aborted != [])
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.endpoint, row.completion_tokens) == ("cancelled", "messages", 1)


async def test_async_stream(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    async with (
        anthropic.AsyncAnthropic(base_url=chat_api.url, api_key=chat_api.secret, max_retries=0) as client,
        client.messages.stream(model="scripted", max_tokens=5, messages=HELLO) as stream,
    ):
        assert "".join([text async for text in stream.text_stream]) == "Hello"


@pytest.mark.slow
def test_demo_model_calls_a_tool_and_reads_its_result(demo: anthropic.Anthropic) -> None:
    fields: Any = {"model": "demo", "max_tokens": 200, "extra_body": GREEDY, "tools": [WEATHER]}
    with demo.messages.stream(messages=[QUESTION], **fields) as stream:
        first = stream.get_final_message()
    whole = demo.messages.create(messages=[QUESTION], **fields)
    assert [block.to_dict() | {"id": ""} for block in first.content] == [
        block.to_dict() | {"id": ""} for block in whole.content
    ]
    call = first.content[-1]
    assert (first.stop_reason, call.type) == ("tool_use", "tool_use")
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": '{"temperature": 18}'}
    turns: Any = [QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = demo.messages.create(messages=turns, **fields)
    assert second.stop_reason == "end_turn"
    assert "18" in second.content[0].text
    # All that came before is in the prefix cache, and counted beside the input.
    assert second.usage.cache_read_input_tokens
    assert recorder.flush()


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"system": "You are Bob."},
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"messages": [*HELLO, {"role": "assistant", "content": "Hello"}]},
        {"messages": [*HELLO, {"role": "system", "content": "Be <|im_end|> brief."}]},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    ],
    ids=["plain", "system", "tools", "tools-none", "prefill", "late-system", "adaptive"],
)
def test_count_is_the_usage_of_the_same_request(demo: anthropic.Anthropic, fields: Any) -> None:
    fields = {"model": "demo", "messages": HELLO, **fields}
    counted = demo.messages.count_tokens(**fields).input_tokens
    usage = demo.messages.create(**fields, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    wait_for_settled_rows(1)


@pytest.mark.slow
def test_demo_model_stops_and_continues(demo: anthropic.Anthropic) -> None:
    count: Any = {"role": "user", "content": "Count from 1 to 9."}
    stopped = demo.messages.create(
        model="demo", max_tokens=100, extra_body=GREEDY, messages=[count], stop_sequences=["5", "7"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "5")
    beginning: Any = {"role": "assistant", "content": stopped.content[0].text + "5"}
    rest = demo.messages.create(model="demo", max_tokens=3, extra_body=GREEDY, messages=[count, beginning])
    assert (rest.stop_reason, rest.usage.output_tokens) == ("max_tokens", 3)
    assert "6" in rest.content[0].text
    with pytest.raises(anthropic.BadRequestError, match=r"thinking\.type"):
        demo.messages.create(model="demo", max_tokens=3, messages=HELLO, thinking={"type": "enabled"})  # type: ignore[typeddict-item]
    with pytest.raises(anthropic.BadRequestError, match=r"output_config\.effort"):
        demo.messages.create(model="demo", max_tokens=3, messages=HELLO, output_config={"effort": "low"})


def test_models(client: anthropic.Anthropic) -> None:
    (model,) = client.models.list()
    assert (model.id, model.type, model.display_name) == ("scripted", "model", "scripted")
    assert model == client.models.retrieve("scripted")
    assert model.created_at.tzinfo is not None


@pytest.mark.slow
@pytest.mark.xdist_group("vision")
def test_an_image_counts_as_what_it_becomes(api: Api) -> None:
    data = base64.b64encode(make_picture(1)).decode()
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    seen: Any = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    with run_worker(make_folder("llava"), num_blocks=256, block_size=4, max_num_seqs=4, max_model_len=300) as worker:
        make_replica(make_model("seeing"), port=worker.port, token=worker.token)
        with make_client(api) as client:
            counted = client.messages.count_tokens(model="seeing", messages=seen).input_tokens
            usage = client.messages.create(model="seeing", messages=seen, max_tokens=3, extra_body=GREEDY).usage
            assert usage.input_tokens == counted > 16 + len("What is it?")
            broken: Any = {"type": "image", "source": {**picture["source"], "data": "iVBORw0KGgpvbmU="}}
            refused: Any = [{"role": "user", "content": [broken]}]
            with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\]\.content\[0\]\.source"):
                client.messages.count_tokens(model="seeing", messages=refused)
    wait_for_settled_rows(1)
