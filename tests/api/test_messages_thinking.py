"""A real worker whose model reasons before it calls a tool, behind /v1/messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.registry import directory
from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.api.test_calls_and_reasoning import CALL, SPECIAL, TEMPLATE
from tests.api.test_messages import fold, read_events
from tests.chain_model import build_chain_model
from tests.factories import make_model, make_replica
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # a real worker

# What the model says behind the prompt, and where its reasoning was opened or closed for it.
TEXTS = [["[/INST]", "[THINK]", "Hm", ", a", " long", " while", "[/THINK]", *CALL], ["\n", "Hm"], ["\n\n", "Sure."]]
TOOL = {"name": "get_weather", "input_schema": {"type": "object"}}
QUESTION = {"role": "user", "content": "Weather?"}


@pytest.fixture(scope="module")
def chain_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder: Path = tmp_path_factory.mktemp("chain")
    build_chain_model(folder, TEMPLATE.read_text(), TEXTS, SPECIAL)
    with run_worker(folder, dtype="float32") as process:
        yield process


@pytest.fixture
def chain_api(chain_worker: WorkerProcess, api: Api) -> Iterator[Api]:
    make_replica(make_model("chain"), port=chain_worker.port, token=chain_worker.token)
    yield api
    recorder.close()
    directory.invalidate()


def ask(api: Api, **fields: Any) -> dict[str, Any]:
    """The whole message, which is the one that a stream adds up to."""
    body = {"model": "chain", "max_tokens": 50, "temperature": 0, "messages": [QUESTION], "tools": [TOOL], **fields}
    whole = api.post("/v1/messages", body)
    assert whole.status_code == 200, whole.text
    message: dict[str, Any] = whole.json()
    streamed = fold(read_events(api.post("/v1/messages", body | {"stream": True}).text))
    for one in (message, streamed):
        for name in ("id", "usage"):  # the second is found in the prefix cache
            del one[name]
        for block in one["content"]:
            block.pop("id", None)
    assert streamed == message
    return message


def test_it_thinks_when_it_may_and_then_calls(chain_api: Api) -> None:
    message = ask(chain_api, thinking={"type": "adaptive"})
    thinking, text, call = message["content"]
    assert (thinking["thinking"], text["text"]) == ("Hm, a long while", "Sure.")
    assert (call["name"], call["input"], message["stop_reason"]) == ("get_weather", {"city": "Paris"}, "tool_use")


@pytest.mark.parametrize("fields", [{}, {"thinking": {"type": "disabled"}}], ids=["absent", "disabled"])
def test_it_does_not_think_unasked(chain_api: Api, fields: dict[str, Any]) -> None:
    assert [block["type"] for block in ask(chain_api, **fields)["content"]] == ["text", "tool_use"]


@pytest.mark.parametrize(("budget", "expected"), [(2, "Hm, a"), (3, "Hm, a long"), (40, "Hm, a long while")])
def test_its_budget_is_kept(chain_api: Api, budget: int, expected: str) -> None:
    thinking, text, call = ask(chain_api, thinking={"type": "enabled", "budget_tokens": budget})["content"]
    assert (thinking["thinking"], text["text"], call["input"]) == (expected, "Sure.", {"city": "Paris"})
