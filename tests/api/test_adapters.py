"""Adapters by their names in `model`: who may name them, what the worker is asked, what the ledger says."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from apps.registry import directory
from apps.registry.models import Adapter, HostedModel
from apps.usage.models import UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import AdapterRef, Generate
from tests.api.conftest import Api, wait_for_settled_rows
from tests.factories import make_key, make_model, make_replica, make_team
from tests.scripted_worker import ScriptedWorker
from tests.tiny_adapters import make_adapter
from tests.worker_process import DEMO_MODEL, WorkerProcess, run_worker

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello!"}]


def add_adapter(model: HostedModel, name: str = "org/tuned", **fields: object) -> Adapter:
    adapter = Adapter.objects.create(hosted_model=model, name=name, **{"source": "/adapters/tuned", **fields})
    directory.invalidate()
    return adapter


def test_the_worker_is_told_and_the_ledger_has_the_adapters_name(
    chat_api: Api, scripted_model: HostedModel, worker: ScriptedWorker
) -> None:
    add_adapter(scripted_model, revision="v2")
    for model in ("org/tuned", "org/tuned@v2", "scripted"):
        answer = chat_api.post(CHAT, {"model": model, "messages": MESSAGES})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model
    messages = [message for message in worker.received if isinstance(message, Generate)]
    ref = AdapterRef("org/tuned", "/adapters/tuned", "v2")
    assert [message.adapter for message in messages] == [ref, ref, None]
    rows = sorted(wait_for_settled_rows(3), key=lambda row: row.created_at)
    assert [(row.model_name, row.revision) for row in rows[:2]] == [("org/tuned", "v2")] * 2
    assert rows[2].model_name == "scripted"


def test_models_name_the_parent(api: Api) -> None:
    model = make_model("base", max_model_len=4096)
    adapter = add_adapter(model)
    add_adapter(model, "off", enabled=False)
    with api.client() as client:
        listed = client.get("/v1/models").json()["data"]
        assert client.get("/v1/models/org/tuned").json() == listed[1]
    assert [(entry["id"], entry["parent"]) for entry in listed] == [("base", None), ("org/tuned", "base")]
    assert (listed[1]["context_length"], listed[1]["created"]) == (4096, int(adapter.created_at.timestamp()))


def test_who_may_not_use_the_model_may_not_use_its_adapters(api: Api) -> None:
    ours = make_team()
    model = make_model("base", teams=(ours,))
    add_adapter(model)
    add_adapter(model, "off", enabled=False)
    add_adapter(make_model("disabled", enabled=False), "of-disabled")
    member = make_key(team=ours).secret
    with api.client() as client:
        for name, secret in (("org/tuned", api.secret), ("off", member), ("of-disabled", member), ("no", member)):
            headers = {"authorization": f"Bearer {secret}"}
            for answer in (
                client.post(CHAT, json={"model": name, "messages": MESSAGES}, headers=headers),
                client.get(f"/v1/models/{name}", headers=headers),
            ):
                assert answer.status_code == 404
                assert answer.json()["error"]["code"] == "model_not_found"
        assert client.get("/v1/models/org/tuned", headers={"authorization": f"Bearer {member}"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
    ],
    ids=["embeddings", "rerank", "score"],
)
def test_other_tasks_refuse_an_adapter_by_name(
    chat_api: Api, scripted_model: HostedModel, path: str, body: dict[str, object]
) -> None:
    add_adapter(scripted_model)
    answer = chat_api.post(path, {"model": "org/tuned", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "model"
    assert "org/tuned" in answer.json()["error"]["message"]


def test_a_pinned_server_serves_the_models_adapters(api: Api, settings: Any) -> None:
    settings.FORCE_MODEL = "base"
    add_adapter(make_model("base"))
    add_adapter(make_model("other"), "others")
    with api.client() as client:
        assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["base", "org/tuned"]
        assert client.get("/v1/models/org/tuned").status_code == 200
        assert client.get("/v1/models/others").status_code == 400


@pytest.fixture(scope="module")
def real_worker() -> Iterator[WorkerProcess]:
    with run_worker(dtype="float32", max_model_len=1024) as process:
        yield process


@pytest.fixture
def real_api(api: Api, real_worker: WorkerProcess) -> Iterator[Api]:
    """The demo model behind the API, as "demo"."""
    make_replica(make_model("demo"), port=real_worker.port, token=real_worker.token)
    yield api
    recorder.close()
    directory.invalidate()


@pytest.mark.slow
def test_openai_clients_name_adapters_of_a_real_worker(real_api: Api, tmp_path: Path) -> None:
    """What is streamed with an adapter is what peft answers; a folder that is none is a 400 that names it."""
    base = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    tuned = make_adapter(base, tmp_path / "tuned", spread=0.1)
    model = HostedModel.objects.get(name="demo")
    add_adapter(model, "tuned", source=str(tmp_path / "tuned"))
    add_adapter(model, "broken", source=str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    prompt = tokenizer("The portal", return_tensors="pt").input_ids
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": [len(tokenizer) + 1], "pad_token_id": 0}
    expected = {}
    for name, reference in (("tuned", tuned), ("demo", base)):
        output = reference.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        expected[name] = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    assert expected["tuned"] != expected["demo"]
    fields = {"prompt": "The portal", "max_tokens": 10, "temperature": 0, "extra_body": {"ignore_eos": True}}
    with openai.OpenAI(base_url=f"{real_api.url}/v1", api_key=real_api.secret, max_retries=0) as client:
        for name in ("tuned", "demo"):
            with contextlib.closing(client.completions.create(model=name, stream=True, **fields)) as stream:
                assert "".join(chunk.choices[0].text for chunk in stream) == expected[name]
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="broken", **fields)
    assert refused.value.param == "model"
    assert "The adapter 'broken' cannot be used. It has no adapter_config.json." in refused.value.message
    rows = {row.model_name: row for row in wait_for_settled_rows(3)}
    assert {name: row.completion_tokens for name, row in rows.items()} == {"tuned": 10, "demo": 10, "broken": 0}
    assert rows["broken"].status == UsageStatus.ERROR
