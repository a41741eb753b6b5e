"""POST /v1/completions: prompts of every shape, choices in order, logprobs in the old form."""

from typing import Any

import pytest

from apps.usage.models import UsageRecord
from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta, TokenLogprob, TopLogprob
from tests.api.conftest import Api
from tests.api.sse import parse_events
from tests.scripted_worker import Answer, ScriptedWorker

PATH = "/v1/completions"
ONCE: dict[str, Any] = {"model": "scripted", "prompt": "once"}


def test_answer_has_openais_shape(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say(" upon", " a time", prompt_tokens=1, reason="length")
    answer = chat_api.post(PATH, ONCE).json()
    assert answer.pop("id").startswith("cmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("system_fingerprint").startswith("fp_")
    assert answer.pop("usage")["total_tokens"] == 3
    choice = {"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "length"}
    assert answer == {"object": "text_completion", "model": "scripted", "choices": [choice]}


def test_stream_has_openais_shape(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say(" upon", " a time")
    response = chat_api.post(PATH, ONCE | {"stream": True, "stream_options": {"include_usage": True}})
    assert response.text.endswith("data: [DONE]\n\n")
    *chunks, last = parse_events(response.text)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [" upon", " a time", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


def test_several_prompts_keep_their_places(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.answer = lambda message: Answer.of(f"{message.prompt}1", f"{message.prompt}2", prompt_tokens=2)
    body = ONCE | {"prompt": ["a", "b", "c"], "n": 2}
    answer = chat_api.post(PATH, body).json()
    texts = ["a1a2", "a1a2", "b1b2", "b1b2", "c1c2", "c1c2"]
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["completion_tokens"] == 12

    streamed = [""] * 6
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = parse_events(chat_api.post(PATH, body).text)
    for chunk in chunks:
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == texts
    assert last["usage"] == answer["usage"]


def test_every_prompt_has_a_usage_row_under_the_answers_id(chat_api: Api) -> None:
    answer = chat_api.post(PATH, ONCE | {"prompt": ["a", "b"]}).json()
    recorder.flush()
    assert sorted(UsageRecord.objects.values_list("pk", flat=True)) == [f"{answer['id']}-0", f"{answer['id']}-1"]


def test_token_ids_reach_the_worker(chat_api: Api, worker: ScriptedWorker) -> None:
    chat_api.post(PATH, ONCE | {"prompt": [5, 6], "echo": True})
    sent = worker.generates[0]
    assert (sent.kind, sent.prompt, sent.echo, sent.sampling.max_tokens) == ("completion", [5, 6], True, 16)


def test_logprobs_in_the_old_form_whole_and_streamed(chat_api: Api, worker: ScriptedWorker) -> None:
    ab = TokenLogprob(1, "ab", -0.25, b"ab", [TopLogprob(2, "x", -0.1, b"x"), TopLogprob(3, "y", -0.2, b"y")])
    c = TokenLogprob(4, "c", -0.5, b"c", [TopLogprob(4, "c", -0.5, b"c"), TopLogprob(3, "y", -0.75, b"y")])
    worker.reply(Answer(deltas=(Delta("", text="ab", logprobs=[ab]), Delta("", text="c", logprobs=[c]))))
    expected = {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": [{"x": -0.1, "y": -0.2, "ab": -0.25}, {"c": -0.5, "y": -0.75}],
        "text_offset": [0, 2],
    }
    assert chat_api.post(PATH, ONCE | {"logprobs": 2}).json()["choices"][0]["logprobs"] == expected
    chunks = parse_events(chat_api.post(PATH, ONCE | {"logprobs": 2, "stream": True}).text)
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks[:2]]
    assert {key: parts[0][key] + parts[1][key] for key in expected} == expected


def test_logprobs_zero_are_of_the_chosen_tokens_alone(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(deltas=(Delta("", text="c", logprobs=[TokenLogprob(4, "c", -0.5, b"c", [])]),)))
    logprobs = chat_api.post(PATH, ONCE | {"logprobs": 0}).json()["choices"][0]["logprobs"]
    assert logprobs == {"tokens": ["c"], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}
    assert worker.generates[0].sampling.top_logprobs == 0


def test_the_best_are_shown_in_order_and_all_are_counted(chat_api: Api, worker: ScriptedWorker) -> None:
    token = TokenLogprob(4, "c", -0.5, b"c", [])
    worker.reply(Answer(deltas=(Delta("", text="c", logprobs=[token]),)))
    answer = chat_api.post(PATH, ONCE | {"prompt": ["a", "b"], "n": 2, "best_of": 3}).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 6
    assert {(sent.n, sent.sampling.top_logprobs) for sent in worker.generates} == {(3, 0)}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "echo": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"prompt": ["a"] * 3, "best_of": 64}, "prompt"),
        ({"suffix": 3}, "suffix"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_impossible_completions_are_refused_by_name(chat_api: Api, fields: dict[str, Any], param: str) -> None:
    response = chat_api.post(PATH, ONCE | fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_best_of_as_many_as_n_is_nothing_special(chat_api: Api, worker: ScriptedWorker) -> None:
    assert chat_api.post(PATH, ONCE | {"n": 2, "best_of": 2, "stream": True}).status_code == 200
    assert worker.generates[0].sampling.top_logprobs is None


def test_suffix_reaches_the_worker(chat_api: Api, worker: ScriptedWorker) -> None:
    chat_api.post(PATH, ONCE | {"suffix": "the end"})
    assert worker.generates[0].suffix == "the end"
