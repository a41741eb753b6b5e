"""The openai SDK on /v1/responses, with the scripted worker and once with the demo model."""

from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from apps.registry import directory
from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta, ToolCallDelta
from tests.api.conftest import Api
from tests.api.open_responses import check_stream
from tests.api.test_responses import parse_stream
from tests.api.test_sdks import make_openai
from tests.factories import make_model, make_replica
from tests.scripted_worker import Answer, ScriptedWorker
from tests.worker_process import run_worker

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


class City(BaseModel):
    name: str


@pytest.fixture
def client(chat_api: Api) -> Iterator[openai.OpenAI]:
    with make_openai(chat_api) as client:
        yield client


def test_create_retrieve_list_and_delete(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    first = client.responses.create(model="scripted", input="hi", instructions="be brief", metadata={"a": "b"})
    assert (first.output_text, first.status, first.metadata) == ("Hello", "completed", {"a": "b"})
    second = client.responses.create(model="scripted", input="again", previous_response_id=first.id)
    assert client.responses.retrieve(second.id) == second
    items = list(client.responses.input_items.list(second.id, order="asc", limit=1))  # a page for each
    assert [item.role for item in items] == ["user", "assistant", "user"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="scripted", input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_stream_gathers_reasoning_text_and_calls(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    call = ToolCallDelta(0, "call_1", "weather", "{}")
    deltas = (Delta("", reasoning="hm"), Delta("", text="I "), Delta("", text="look."), Delta("", tool_calls=[call]))
    worker.reply(Answer(deltas=deltas, reason="tool_calls"))
    with client.responses.stream(model="scripted", input="weather?", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert {"response.reasoning_text.delta", "response.function_call_arguments.done"} <= set(kinds)
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "I look."


def test_parse_reads_the_enforced_form(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.say('{"name":', '"Oslo"}')
    answer = client.responses.parse(model="scripted", input="Which city?", text_format=City)
    assert answer.output_parsed == City(name="Oslo")
    structure = worker.generates[0].structure
    assert structure is not None
    assert structure.kind == "json_schema"


def test_failure_in_the_middle_is_an_event(client: openai.OpenAI, worker: ScriptedWorker) -> None:
    worker.say("a", "b", fail="invalid_request", fail_after=1, fail_message="it broke")
    *_, last = client.responses.create(model="scripted", input="hi", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "it broke"


async def test_async_stream(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    async with openai.AsyncOpenAI(base_url=f"{chat_api.url}/v1", api_key=chat_api.secret, max_retries=0) as client:
        events = [event async for event in await client.responses.create(model="scripted", input="hi", stream=True)]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello"


@pytest.fixture
def demo(api: Api) -> Iterator[None]:
    with run_worker() as worker:
        make_replica(make_model("demo"), port=worker.port, token=worker.token)
        yield
        recorder.close()
    directory.invalidate()


@pytest.mark.slow
def test_demo_model_calls_and_goes_on(demo: None, api: Api) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "name": "get_weather", "description": "Current weather in a city", "parameters": city}
    body = {"model": "demo", "input": "What's the weather in Paris?", "tools": [tool], "temperature": 0}
    with make_openai(api) as client:
        events = parse_stream(api.post("/v1/responses", body | {"stream": True}).text)
        first = check_stream(events)
        (call,) = [item for item in first["output"] if item["type"] == "function_call"]
        assert (call["name"], call["arguments"]) == ("get_weather", '{"city": "Paris"}')
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": '{"temperature": 18}'}
        second = client.responses.create(
            model="demo", input=[result], previous_response_id=first["id"], tools=[tool], temperature=0
        )
        assert second.status == "completed"
        assert "18" in second.output_text
        cut = client.responses.create(model="demo", input="Count from 1 to 100.", max_output_tokens=5)
        assert (cut.status, cut.usage and cut.usage.output_tokens) == ("incomplete", 5)
