"""A real vLLM behind the portal: started as a replica is, asked through the API. Runs where ATRIUM_VLLM names it."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from apps.registry import directory, engine_processes, launcher
from apps.registry.models import Engine, HostedModel
from apps.usage.models import UsageStatus
from apps.usage.recorder import recorder
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.sse import parse_events
from tests.factories import make_model, make_replica
from tests.web_process import find_free_port
from tests.worker_process import DEMO_MODEL

LOAD_TIMEOUT_S = 400.0
TOKEN = "vllm-token"
QUESTION = [{"role": "user", "content": "What is Atrium?"}]
TOOL = {
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
FIELDS: dict[str, Any] = {
    "name": "demo-vllm",
    "source": str(DEMO_MODEL),
    "engine": Engine.VLLM,
    "dtype": "float32",
    "model_impl": "transformers",
    "max_model_len": 2048,
    "max_num_seqs": 4,
    "kv_cache_bytes": 2**30,
    "tool_call_parser": "hermes",
}

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif("ATRIUM_VLLM" not in os.environ, reason="ATRIUM_VLLM does not name an installed vllm"),
    pytest.mark.xdist_group("vllm"),
]


@pytest.fixture(scope="module")
def vllm_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """vLLM with the demo model, ready; ended by what ends replicas."""
    port = find_free_port()
    with override_settings(
        DATA_DIR=tmp_path_factory.mktemp("vllm"), ENGINE_EXECUTABLES={"vllm": os.environ["ATRIUM_VLLM"]}
    ):
        process = engine_processes.launch("vllm", HostedModel(**FIELDS), port=port, token=TOKEN)
        try:
            deadline_s = time.monotonic() + LOAD_TIMEOUT_S
            while True:
                health = engine_processes.get_health("vllm", "127.0.0.1", port, TOKEN)
                if health is not None and health.status == "ready":
                    break
                assert launcher.is_running(process), engine_processes.find_reason("vllm")
                assert time.monotonic() < deadline_s, launcher.read_log_tail("vllm")
                time.sleep(0.5)
            assert health.info == {"max_model_len": 2048}
            yield port
        finally:
            launcher.terminate(process)
            if not launcher.wait_until_gone(process, 30):
                launcher.kill(process)
            launcher.get_exit_code(process)


@pytest.fixture
def vllm_api(api: Api, vllm_port: int) -> Iterator[Api]:
    """The server, a key, and the model "demo-vllm"."""
    fields = dict(FIELDS)
    make_replica(make_model(fields.pop("name"), **fields), port=vllm_port, token=TOKEN)
    yield api
    recorder.close()
    directory.invalidate()


def ask(api: Api, **fields: Any) -> Any:
    body = {"model": "demo-vllm", "messages": QUESTION, "temperature": 0, "max_tokens": 40, **fields}
    return api.post("/v1/chat/completions", body)


def test_a_stream_and_a_whole_answer_say_the_same_and_are_counted(vllm_api: Api) -> None:
    whole = ask(vllm_api).json()
    events = parse_events(ask(vllm_api, stream=True, stream_options={"include_usage": True}).text)
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])
    assert "Atrium" in text
    assert whole["choices"][0]["message"]["content"] == text
    assert {event["model"] for event in events} == {"demo-vllm"}
    usage = events[-1]["usage"]
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"] > 3
    for row in wait_for_settled_rows(2):
        assert (row.status, row.prompt_tokens) == (UsageStatus.OK, usage["prompt_tokens"])
        assert row.completion_tokens == usage["completion_tokens"]


def test_tools_are_called_and_arguments_stream(vllm_api: Api) -> None:
    messages = [{"role": "user", "content": "What's the weather in Paris?"}]
    fields = {"messages": messages, "tools": [{"type": "function", "function": TOOL}], "max_tokens": 80}
    [choice] = ask(vllm_api, **fields).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    events = parse_events(ask(vllm_api, stream=True, **fields).text)
    pieces = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", [])]
    assert pieces[0]["function"]["name"] == "get_weather"
    assert "".join(piece["function"]["arguments"] for piece in pieces) == call["function"]["arguments"]
    wait_for_settled_rows(2)


def test_choices_logprobs_stops_and_forms_are_its_own(vllm_api: Api) -> None:
    fields = {"n": 2, "temperature": 0.7, "seed": 3, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    two = ask(vllm_api, max_tokens=4, **fields).json()["choices"]
    assert [len(choice["logprobs"]["content"]) for choice in two] == [4, 4]
    assert all(len(token["top_logprobs"]) == 2 for token in two[0]["logprobs"]["content"])
    text = ask(vllm_api, max_tokens=8).json()["choices"][0]["message"]["content"]
    stopped = ask(vllm_api, stop=[text[-3:]]).json()["choices"][0]["message"]["content"]
    assert stopped == text.partition(text[-3:])[0]
    chosen = ask(vllm_api, guided_choice=["yes", "no"]).json()["choices"][0]["message"]["content"]
    assert chosen in ("yes", "no")
    wait_for_settled_rows(4)


def test_text_completions_and_their_prompt_as_tokens(vllm_api: Api) -> None:
    body = {"model": "demo-vllm", "prompt": [5, 6, 7, 8], "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    answer = vllm_api.post("/v1/completions", body).json()
    assert answer["usage"]["prompt_tokens"] == 4
    assert answer["usage"]["completion_tokens"] == 3
    wait_for_settled_rows(1)


def test_what_it_refuses_is_the_clients_to_know(vllm_api: Api) -> None:
    response = ask(vllm_api, messages=[{"role": "user", "content": "word " * 4000}])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    response = ask(vllm_api, logit_bias={"999999": 1})
    assert response.status_code == 400
    wait_for_settled_rows(2)


def test_who_leaves_ends_the_work_there(vllm_api: Api, vllm_port: int) -> None:
    fields = {"stream": True, "max_tokens": 1800, "ignore_eos": True}
    body = json.dumps({"model": "demo-vllm", "messages": QUESTION, **fields}).encode()
    with vllm_api.connect("/v1/chat/completions", body) as connection:
        response = connection.getresponse()
        for _ in range(12):
            response.readline()
        assert _count_active(vllm_port) == 1
    deadline_s = time.monotonic() + 60
    while _count_active(vllm_port):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    [row] = wait_for_settled_rows(1)
    assert row.status == UsageStatus.CANCELLED
    assert row.prompt_tokens > 0
    assert 0 < row.completion_tokens < 1800


def _count_active(port: int) -> int:
    _, metrics = engine_processes._get("127.0.0.1", port, "/metrics", TOKEN)
    return int(engine_processes.read_activity(metrics.decode())[0])
