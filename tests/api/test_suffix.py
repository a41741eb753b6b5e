"""`suffix`, `best_of` and prompts of every kind over HTTP: a real worker whose tokenizer has tokens for gaps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, LlamaConfig

from apps.usage.recorder import recorder
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.factories import make_model, make_replica
from tests.worker.frontend.conftest import build_byte_level
from tests.worker_process import WorkerProcess, run_worker

pytestmark = pytest.mark.slow  # a real worker

PATH = "/v1/completions"
TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
BODY = {"model": "coder", "prompt": "def main():\n    return ", "suffix": "[1]\n", "max_tokens": 12, "temperature": 0}
WRITTEN_OUT = "<|fim_prefix|>def main():\n    return <|fim_suffix|>[1]\n<|fim_middle|>"


def save_coder(folder: Path, *, tokens: tuple[str, ...]) -> Path:
    tokenizer = build_byte_level().hf
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with run_worker(save_coder(tmp_path_factory.mktemp("coder"), tokens=TOKENS), num_blocks=64, block_size=4) as worker:
        yield worker


@pytest.fixture
def coder_api(api: Api, coder: WorkerProcess) -> Iterator[Api]:
    make_replica(make_model("coder"), port=coder.port, token=coder.token)
    yield api
    recorder.close()


def ask(api: Api, **fields: Any) -> Any:
    response = api.post(PATH, BODY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_gap_is_filled_as_with_the_prompt_written_out(coder_api: Api) -> None:
    filled, written_out = ask(coder_api), ask(coder_api, prompt=WRITTEN_OUT, suffix=None)
    assert filled["choices"] == written_out["choices"]
    assert filled["usage"]["prompt_tokens"] == written_out["usage"]["prompt_tokens"]
    assert filled["choices"][0]["text"] != ask(coder_api, suffix="")["choices"][0]["text"]
    chunks = parse_events(coder_api.post(PATH, BODY | {"stream": True}).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == filled["choices"][0]["text"]


def test_suffix_goes_with_lists_echo_and_best_of(coder_api: Api) -> None:
    one = ask(coder_api)["choices"][0]["text"]
    both = ask(coder_api, prompt=[BODY["prompt"], "x = "], n=2)["choices"]
    assert [choice["text"] for choice in both[:2]] == [one, one]
    assert ask(coder_api, echo=True)["choices"][0]["text"] == BODY["prompt"] + one
    best = ask(coder_api, best_of=3, temperature=1, seed=4)
    assert len(best["choices"]) == 1
    assert best["usage"]["completion_tokens"] > ask(coder_api, temperature=1, seed=4)["usage"]["completion_tokens"]


def test_the_best_is_the_likeliest_of_those_that_are_generated(coder_api: Api) -> None:
    fields = {"temperature": 1, "seed": 4, "logprobs": 0}
    every = ask(coder_api, n=4, **fields)["choices"]
    ranked = sorted(every, key=get_mean_logprob, reverse=True)
    shown = ask(coder_api, n=2, best_of=4, **fields)["choices"]
    assert [choice["text"] for choice in shown] == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in shown] == [0, 1]


def get_mean_logprob(choice: dict[str, Any]) -> float:
    logprobs = choice["logprobs"]["token_logprobs"]
    return sum(logprobs) / len(logprobs)


def test_token_ids_and_lists_of_them_are_prompts(coder_api: Api) -> None:
    tokenizer = build_byte_level()
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (BODY["prompt"], "x = ")]
    ask(coder_api, prompt=[BODY["prompt"], "x = "], suffix=None)  # from here on the prompts are cached for all
    by_text = ask(coder_api, prompt=[BODY["prompt"], "x = "], suffix=None)
    by_ids = ask(coder_api, prompt=ids, suffix=None)
    assert [choice["text"] for choice in by_ids["choices"]] == [choice["text"] for choice in by_text["choices"]]
    assert by_ids["usage"] == by_text["usage"]
    assert ask(coder_api, prompt=ids[0], suffix=None)["choices"][0] == by_text["choices"][0]
    assert ask(coder_api, prompt=ids[0])["choices"] == ask(coder_api)["choices"]
    echoed = ask(coder_api, prompt=ids[0], echo=True, suffix=None)["choices"][0]["text"]
    assert echoed == BODY["prompt"] + by_text["choices"][0]["text"]


def test_other_models_refuse_a_suffix(api: Api, tmp_path: Path) -> None:
    with run_worker(save_coder(tmp_path, tokens=()), num_blocks=64, block_size=4) as worker:
        make_replica(make_model("coder"), port=worker.port, token=worker.token)
        response = api.post(PATH, BODY)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, "suffix", "unsupported_parameter")
        assert ask(api, suffix="")["choices"][0]["text"]
    recorder.close()
