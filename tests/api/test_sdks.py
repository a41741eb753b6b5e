"""The clients that people use: the openai SDK, huggingface_hub, and what `transformers chat` sends."""

import httpx
import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient

from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.scripted_worker import Answer, ScriptedWorker

MESSAGES = [{"role": "user", "content": "hello"}]


def make_openai(api: Api) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.url}/v1", api_key=api.secret, max_retries=0)


def test_openai_sdk(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    with make_openai(chat_api) as client:
        assert [model.id for model in client.models.list()] == ["scripted"]
        assert client.models.retrieve("scripted").id == "scripted"
        answer = client.chat.completions.create(model="scripted", messages=MESSAGES, max_completion_tokens=5)
        assert answer.choices[0].message.content == "Hello"
        assert answer.usage.completion_tokens == 2
        text = client.completions.create(model="scripted", prompt="once").choices[0].text
        assert text == "Hello"
        with client.chat.completions.stream(
            model="scripted", messages=MESSAGES, stream_options={"include_usage": True}
        ) as events:
            final = events.get_final_completion()
    assert final.choices[0].message.content == "Hello"
    assert final.usage.completion_tokens == 2


async def test_async_openai_sdk(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    async with openai.AsyncOpenAI(base_url=f"{chat_api.url}/v1", api_key=chat_api.secret, max_retries=0) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True)
        ]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"


@pytest.mark.parametrize(
    ("model", "options", "error", "param"),
    [
        ("nobodys", {}, openai.NotFoundError, None),
        ("scripted", {"temperature": 3}, openai.BadRequestError, "temperature"),
        ("scripted", {"response_format": {"type": "grammar"}}, openai.BadRequestError, "response_format.type"),
    ],
)
def test_openai_sdk_raises_its_own_errors(
    chat_api: Api, model: str, options: dict[str, object], error: type[openai.APIStatusError], param: str | None
) -> None:
    with make_openai(chat_api) as client, pytest.raises(error) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES, **options)
    assert param is None or caught.value.param == param


def test_openai_sdk_raises_on_a_failure_in_the_middle(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(fail="invalid_request", fail_after=2, fail_message="it broke"))
    with make_openai(chat_api) as client:
        chunks = client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True)
        assert next(chunks).choices[0].delta.role == "assistant"
        with pytest.raises(openai.APIError, match="it broke"):
            list(chunks)


def test_openai_sdk_refuses_a_wrong_key(api: Api) -> None:
    with (
        openai.OpenAI(base_url=f"{api.url}/v1", api_key="wrong-but-long-enough", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="/keys"),
    ):
        client.models.list()


def test_huggingface_hub_with_a_base_url_without_v1(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    client = InferenceClient(base_url=chat_api.url, api_key=chat_api.secret)
    answer = client.chat_completion(MESSAGES, model="scripted", max_tokens=5)
    assert answer.choices[0].message.content == "Hello"


async def test_async_huggingface_hub_streams(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    async with AsyncInferenceClient(base_url=chat_api.url, api_key=chat_api.secret) as client:
        chunks = [chunk async for chunk in await client.chat_completion(MESSAGES, model="scripted", stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"


def test_what_transformers_chat_sends(chat_api: Api, worker: ScriptedWorker) -> None:
    # Its requests, in their order: the key stands in the base URL, for its POST /load_model knows no other place.
    base = chat_api.url.replace("http://", f"http://me:{chat_api.secret}@")
    assert httpx.get(f"{base}/health").status_code == 200
    with httpx.stream("POST", f"{base}/load_model", json={"model": "scripted"}) as response:
        response.raise_for_status()
        assert parse_events("".join(response.iter_text()))[-1]["status"] == "ready"
    body = {
        "messages": MESSAGES,
        "model": "scripted",
        "stream": True,
        "generation_config": '{\n  "do_sample": true,\n  "max_new_tokens": 256,\n  "transformers_version": "5.23.0"\n}',
    }
    response = httpx.post(f"{base}/v1/chat/completions", json=body)
    assert response.text.endswith("data: [DONE]\n\n")
    assert worker.generates[0].sampling.max_tokens == 256
