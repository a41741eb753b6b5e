"""A real worker whose model writes Mistral's special tokens: reasoning and calls as clients get them over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.chain_model import END, build_chain_model
from tests.factories import make_model, make_replica
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # real workers: seconds each

TEMPLATE = Path(__file__).parents[1] / "worker" / "frontend" / "templates" / "magistral.jinja"
SPECIAL = ["[INST]", "[/INST]", "[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]"]
# What the model says behind the prompt, and where its reasoning was opened or closed for it.
CALL = ["Sure.", "[TOOL_CALLS]", "get_weather", "[ARGS]", '{"city"', ': "Paris"}', END]
TEXTS = [["[/INST]", "[THINK]", "Hm.", "[/THINK]", *CALL], ["\n", "Hm."], ["\n\n", "Sure."]]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
BODY = {"model": "chain", "messages": [{"role": "user", "content": "Weather?"}], "temperature": 0, "tools": [TOOL]}


@pytest.fixture(scope="module")
def chain_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("chain")
    build_chain_model(folder, TEMPLATE.read_text(), TEXTS, SPECIAL)
    with run_worker(folder, dtype="float32") as process:
        yield process


@pytest.fixture
def model(chain_worker: WorkerProcess, api: Api) -> Iterator[HostedModel]:
    model = make_model("chain")
    make_replica(model, port=chain_worker.port, token=chain_worker.token)
    yield model
    recorder.close()
    directory.invalidate()


def ask(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post("/v1/chat/completions", BODY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_reasoning_and_a_call_in_one_answer(model: HostedModel, api: Api) -> None:
    completion = ask(api)
    (choice,) = completion["choices"]
    message = choice["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Sure.")
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert choice["finish_reason"] == "tool_calls"
    details = completion["usage"]["completion_tokens_details"]
    assert 0 < details["reasoning_tokens"] < completion["usage"]["completion_tokens"]


def test_arguments_are_streamed_piece_by_piece(model: HostedModel, api: Api) -> None:
    response = api.post("/v1/chat/completions", BODY | {"stream": True})
    deltas = [event["choices"][0]["delta"] for event in parse_events(response.text)]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm."
    pieces = [piece["function"].get("arguments") for delta in deltas for piece in delta.get("tool_calls") or []]
    assert [piece for piece in pieces if piece] == ['{"city"', ': "Paris"}']


def test_answer_that_is_cut_within_a_call_is_no_call(model: HostedModel, api: Api) -> None:
    (choice,) = ask(api, max_tokens=8)["choices"]
    assert choice["finish_reason"] == "length"


def test_thinking_is_switched_off_by_the_request_and_by_the_model(model: HostedModel, api: Api) -> None:
    for fields in ({"enable_thinking": False}, {"reasoning_effort": "none"}):
        message = ask(api, **fields)["choices"][0]["message"]
        assert (message.get("reasoning_content"), message["content"]) == (None, "Sure.")
    model.reasoning = "off"
    model.save()
    directory.invalidate()
    assert ask(api)["choices"][0]["message"].get("reasoning_content") is None
    assert ask(api, enable_thinking=True)["choices"][0]["message"]["reasoning_content"] == "Hm."


def test_level_that_the_model_has_not_is_refused_by_name(model: HostedModel, api: Api) -> None:
    response = api.post("/v1/chat/completions", BODY | {"reasoning_effort": "high"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "reasoning_effort"


def test_completions_are_not_parsed(model: HostedModel, api: Api) -> None:
    response = api.post("/v1/completions", {"model": "chain", "prompt": "[/INST]", "temperature": 0, "max_tokens": 20})
    assert response.json()["choices"][0]["text"] == 'Hm.Sure.get_weather{"city": "Paris"}'
