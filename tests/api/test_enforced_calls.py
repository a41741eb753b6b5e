"""Enforced calls over HTTP: a real worker whose model has random weights and Qwen3-Coder's form of calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.factories import make_model, make_replica
from tests.worker.frontend.conftest import build_byte_level
from tests.worker.frontend.test_families import TEMPLATES
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # real workers: seconds each

CITY = {"type": "string", "minLength": 2, "maxLength": 8}
WEATHER = {
    "type": "object",
    "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
    "required": ["city", "days"],
}
PING = {"type": "object", "properties": {"hard": {"type": "boolean"}}}
SCHEMAS = {"get_weather": WEATHER, "ping": PING}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
BODY = {"model": "random", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "max_tokens": 400}


def save_random_model(folder: Path) -> None:
    tokenizer = build_byte_level().hf
    tokenizer.add_tokens([AddedToken("</tool_call>", special=False)])
    tokenizer.chat_template = (TEMPLATES / "qwen3_coder.jinja").read_text()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module", params=["paged", "fallback"])
def random_worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("random")
    save_random_model(folder)
    with run_worker(folder, dtype="float32", engine=request.param) as process:
        yield process


@pytest.fixture
def model(random_worker: WorkerProcess, api: Api) -> Iterator[HostedModel]:
    model = make_model("random")
    make_replica(model, port=random_worker.port, token=random_worker.token)
    yield model
    recorder.close()
    directory.invalidate()


def check(name: str, arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize(("tool_choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_every_choice_is_one_valid_call(model: HostedModel, api: Api, tool_choice: Any, reason: str) -> None:
    body = BODY | {"tool_choice": tool_choice, "parallel_tool_calls": False, "n": 3, "seed": 4}
    response = api.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    for choice in response.json()["choices"]:
        (call,) = choice["message"]["tool_calls"]
        check(**call["function"])
        assert (choice["finish_reason"], choice["message"]["content"]) == (reason, None)
        assert tool_choice == "required" or call["function"]["name"] == "get_weather"


def test_a_stream_says_the_same(model: HostedModel, api: Api) -> None:
    body = BODY | {"tool_choice": "required", "parallel_tool_calls": False, "seed": 4}
    whole = api.post("/v1/chat/completions", body).json()["choices"][0]["message"]["tool_calls"][0]["function"]
    response = api.post("/v1/chat/completions", body | {"stream": True})
    deltas = [event["choices"][0]["delta"] for event in parse_events(response.text)]
    pieces = [piece["function"] for delta in deltas for piece in delta.get("tool_calls") or []]
    assert pieces[0]["name"] == whole["name"]
    assert "".join(piece.get("arguments") or "" for piece in pieces) == whole["arguments"]
    check(**whole)


def test_what_the_form_cannot_hold_is_refused_by_name(model: HostedModel, api: Api) -> None:
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "uri"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    response = api.post("/v1/chat/completions", BODY | {"tools": tools, "tool_choice": "required"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools[0].function.parameters"
