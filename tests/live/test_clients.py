"""The openai SDK against a really served demo model: what a script of its page (test_libraries) does not show."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.live.installation import API_KEY, MODEL, Installation

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(installation: Installation):
    with openai.OpenAI(base_url=f"{installation.url}/v1", api_key=API_KEY) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **options) -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], temperature=0, **options
    )
    return answer.choices[0].message.content or ""


def test_openai_sdk_streams_what_it_answers_whole(client):
    question = "How do I create an API key?"
    whole = ask(client, question)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert "key" in whole.lower()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 5


def test_openai_sdk_lists_models_and_names_an_unknown_one(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by == "atrium"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/nothing")
    assert caught.value.code == "model_not_found"


def test_openai_sdk_without_a_valid_key_is_refused(installation):
    with (
        openai.OpenAI(base_url=f"{installation.url}/v1", api_key="atr_wrong") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_demo_model_calls_a_tool_and_reads_its_result(client):
    messages = [{"role": "user", "content": "What's the weather in Paris?"}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER_TOOL], temperature=0)
    assert first.choices[0].finish_reason == "tool_calls"
    [call] = first.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "condition": "sunny"}'},
    ]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER_TOOL], temperature=0)
    assert second.choices[0].finish_reason == "stop"
    assert "21" in second.choices[0].message.content


class Fact(BaseModel):
    """What a client that speaks pydantic asks for."""

    title: Literal["short", "long"]
    year: int = Field(ge=1900, le=2100)
    tags: list[Literal["a", "b"]] = Field(max_length=2)


def test_openai_sdk_parses_an_enforced_answer_whole_and_streamed(client):
    options = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a fact."}], "response_format": Fact}
    whole = client.chat.completions.parse(**options, temperature=1, seed=3)
    assert whole.choices[0].finish_reason == "stop"
    assert isinstance(whole.choices[0].message.parsed, Fact)
    with client.chat.completions.stream(**options, temperature=1, seed=3) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.content == whole.choices[0].message.content


def test_demo_model_calls_a_tool_that_is_required(client):
    messages = [{"role": "user", "content": "Hello!"}]
    options = {"model": MODEL, "messages": messages, "tools": [WEATHER_TOOL], "temperature": 0}
    answer = client.chat.completions.create(**options, tool_choice="required", parallel_tool_calls=False)
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments).keys() == {"city"}


def test_an_impossible_schema_is_a_bad_request(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "?"}], response_format=form)
    assert caught.value.param == "response_format"


def test_demo_model_takes_the_name_the_system_prompt_gives_it(client):
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "You are Marvolo."}, {"role": "user", "content": "Who are you?"}],
        temperature=0,
    )
    assert "Marvolo" in answer.choices[0].message.content


def test_completions_endpoint_continues_a_text(client):
    answer = client.completions.create(model=MODEL, prompt="Atrium is", max_tokens=8, temperature=0)
    assert answer.usage.completion_tokens <= 8
    assert answer.choices[0].finish_reason in {"length", "stop"}
