"""Requests that are too much for a model or for their reader, or nobody's any more, over HTTP: they hold up nobody."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from apps.inference.clients import base
from apps.usage.models import UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import Generate
from tests.api.conftest import Api, wait_for_settled_rows
from tests.factories import make_model, make_replica
from tests.scripted_worker import Answer, ScriptedWorker
from tests.worker.frontend.conftest import build_byte_level
from tests.worker_process import WorkerProcess, run_worker

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CONTEXT = 32_768
WAIT_S = 60.0
ENDLESS: dict[str, Any] = {"model": "long", "prompt": "a", "max_tokens": 30_000, "ignore_eos": True, "stop": "\0\0"}
SHORT: dict[str, Any] = {"model": "long", "prompt": "Hello", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def long_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A tiny model of 32k tokens of context."""
    folder: Path = tmp_path_factory.mktemp("long")
    tokenizer = build_byte_level().hf
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with run_worker(folder) as worker:
        yield worker


@pytest.fixture
def long_api(api: Api, long_worker: WorkerProcess) -> Iterator[Api]:
    make_replica(make_model("long"), port=long_worker.port, token=long_worker.token)
    yield api
    recorder.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def count_running(worker: WorkerProcess) -> int:
    return int(worker.get_health()[1]["stats"]["num_running"])


@pytest.mark.slow
@pytest.mark.parametrize("text", ["word " * 36_000, "x" * 2_000_000], ids=["36k_words", "2_mb"])
def test_prompt_beyond_the_context_is_refused_while_others_run(
    long_api: Api, long_worker: WorkerProcess, text: str
) -> None:
    assert long_worker.get_health()[1]["info"]["max_model_len"] == CONTEXT
    alone = long_api.post(COMPLETIONS, SHORT).json()["choices"]
    with long_api.connect(COMPLETIONS, json.dumps(ENDLESS).encode()):
        wait_until(lambda: count_running(long_worker) == 1)
        for path, fields, param in (
            (COMPLETIONS, {"prompt": text}, "prompt"),
            (CHAT, {"messages": [{"role": "user", "content": text}]}, "messages"),
        ):
            response = long_api.post(path, {"model": "long"} | fields)
            error = response.json()["error"]
            assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
            assert str(CONTEXT) in error["message"]
            assert text[:100] not in error["message"]
        assert long_api.post(COMPLETIONS, SHORT).json()["choices"] == alone
        assert count_running(long_worker) == 1, "the long answer still runs: nothing waited for it"
    rows = wait_for_settled_rows(5)
    assert sorted(row.status for row in rows) == sorted(
        [UsageStatus.OK] * 2 + [UsageStatus.ERROR] * 2 + [UsageStatus.CANCELLED]
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_abandoned_request_stops_computing(long_api: Api, long_worker: WorkerProcess, is_stream: bool) -> None:
    with long_api.connect(COMPLETIONS, json.dumps(ENDLESS | {"stream": is_stream, "n": 2}).encode()):
        wait_until(lambda: count_running(long_worker) == 2)
    wait_until(lambda: count_running(long_worker) == 0)
    (row,) = wait_for_settled_rows(1)
    assert row.status == UsageStatus.CANCELLED
    assert row.completion_tokens < 60_000
    stats = long_worker.get_health()[1]["stats"]
    assert stats["free_blocks"] == stats["num_blocks"]


def test_reader_who_reads_nothing_is_cut_off_and_holds_up_nobody(
    chat_api: Api, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MAX_BUFFERED_EVENTS", 8)
    endless = Answer.of(*["x" * 20_000] * 2_000)  # more than all buffers on the way hold

    def answer(message: Generate) -> Answer:
        return endless if message.sampling.seed == 7 else Answer.of("short")

    worker.answer = answer
    body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": True, "seed": 7}
    with chat_api.connect(CHAT, json.dumps(body).encode()):
        worker.wait_for(lambda worker: len(worker.generates) == 1)
        for seed in range(3):
            quick = chat_api.post(CHAT, body | {"stream": False, "seed": seed})
            assert quick.json()["choices"][0]["message"]["content"] == "short"
        worker.wait_for(lambda worker: len(worker.aborted) == 1)
        (cut,) = [row for row in wait_for_settled_rows(4) if row.status != UsageStatus.OK]
    assert (cut.status, cut.error_code) == (UsageStatus.CANCELLED, "client_too_slow")
