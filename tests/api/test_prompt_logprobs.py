"""Log-probabilities of an echoed prompt, as harnesses that score texts ask for them: a real worker, a real model."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.demo_fixtures import demo_api
from tests.api.sse import parse_events
from tests.worker_process import DEMO_MODEL, WorkerProcess, run_worker

__all__ = ["demo_api"]  # a fixture

PATH = "/v1/completions"
SCORED: dict[str, Any] = {"model": "demo", "temperature": 0, "echo": True, "logprobs": 2}
TEXT = "Atrium is a portal for models."


@pytest.fixture(scope="module")
def demo_worker() -> Iterator[WorkerProcess]:
    """In full precision, which is compared closely."""
    with run_worker(dtype="float32") as worker:
        yield worker


def tokenize(api: Api, text: str) -> list[int]:
    token_ids: list[int] = api.post("/v1/tokenize", {"model": "demo", "prompt": text}).json()["tokens"]
    return token_ids


@torch.inference_mode()
def compute(token_ids: list[int]) -> torch.Tensor:
    """[T - 1, V], of one plain forward pass."""
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    return torch.log_softmax(model(torch.tensor([token_ids])).logits[0, :-1], dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_equal_a_plain_forward_pass(demo_api: Api, max_tokens: int) -> None:
    token_ids = tokenize(demo_api, TEXT * 40)  # more than a step scores
    assert len(token_ids) > 200
    expected = compute(token_ids)
    for _ in range(2):  # the second time all of it is in the prefix cache
        answer = demo_api.post(PATH, SCORED | {"prompt": token_ids, "max_tokens": max_tokens}).json()
        (choice,) = answer["choices"]
        assert choice["text"].startswith(TEXT * 40)
        logprobs = choice["logprobs"]
        assert {len(values) for values in logprobs.values()} == {len(token_ids) + max_tokens}
        own, top = logprobs["token_logprobs"], logprobs["top_logprobs"]
        assert (own[0], top[0]) == (None, None)
        for position, token_id in enumerate(token_ids[1:], start=1):
            row = expected[position - 1]
            assert own[position] == pytest.approx(float(row[token_id]), abs=1e-3)
            assert max(top[position].values()) == pytest.approx(float(row.max()), abs=1e-3)
        assert logprobs["text_offset"][: len(token_ids)] == measure(logprobs["tokens"][: len(token_ids)])
        usage = answer["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(token_ids), max_tokens)
        assert choice["finish_reason"] == "length"
    assert len(wait_for_settled_rows(2)) == 2


def measure(tokens: list[str]) -> list[int]:
    """Where each begins."""
    return [sum(map(len, tokens[:position])) for position in range(len(tokens))]


@pytest.mark.slow
def test_streamed_and_of_several_prompts_it_is_the_same(demo_api: Api) -> None:
    body = SCORED | {"prompt": [TEXT, "Hello there"], "max_tokens": 2, "n": 2, "seed": 3}
    whole = demo_api.post(PATH, body).json()
    choices: dict[int, dict[str, Any]] = {}
    for chunk in parse_events(demo_api.post(PATH, body | {"stream": True}).text):
        for piece in chunk["choices"]:
            choice = choices.setdefault(
                piece["index"], {"text": "", "tokens": [], "token_logprobs": [], "text_offset": []}
            )
            choice["text"] += piece["text"]
            for name in ("tokens", "token_logprobs", "text_offset") if piece["logprobs"] else ():
                choice[name] += piece["logprobs"][name]
    assert len(choices) == len(whole["choices"]) == 4
    for choice in whole["choices"]:
        streamed = choices[choice["index"]]
        assert streamed.pop("text") == choice["text"]
        assert streamed.pop("token_logprobs")[1:] == pytest.approx(choice["logprobs"]["token_logprobs"][1:], abs=1e-3)
        assert streamed == {name: choice["logprobs"][name] for name in streamed}


@pytest.mark.slow
def test_what_cannot_be_scored_is_refused_by_name(demo_api: Api) -> None:
    error = demo_api.post(PATH, SCORED | {"prompt": "a", "suffix": "b"}).json()["error"]
    assert (error["param"], error["code"]) == ("logprobs", "unsupported_parameter")
    plain = demo_api.post(PATH, SCORED | {"prompt": TEXT, "max_tokens": 0, "logprobs": None}).json()["choices"][0]
    assert (plain["text"], plain["logprobs"], plain["finish_reason"]) == (TEXT, None, "length")
