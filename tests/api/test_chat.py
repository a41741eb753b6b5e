"""POST /v1/chat/completions over real HTTP: the shape of a stream, of an answer, and that both say the same."""

import json
from typing import Any

from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.models import UsageRecord
from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta, TokenLogprob, ToolCallDelta, TopLogprob
from tests.api.conftest import Api
from tests.api.sse import parse_events, stream
from tests.scripted_worker import Answer, ScriptedWorker

PATH = "/v1/chat/completions"
HELLO = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
TOKEN = TokenLogprob(7, "é", -0.5, "é".encode(), [TopLogprob(7, "é", -0.5, "é".encode()), TopLogprob(8, "e", -1, b"e")])
TOOL_ANSWER = Answer(
    deltas=(
        Delta("", reasoning="Let me "),
        Delta("", reasoning="look."),
        Delta("", tool_calls=[ToolCallDelta(0, "call_1", "weather")]),
        Delta("", tool_calls=[ToolCallDelta(0, arguments='{"city":')]),
        Delta("", tool_calls=[ToolCallDelta(0, arguments=' "Paris"}'), ToolCallDelta(1, "call_2", "time")]),
    ),
    reason="tool_calls",
)


def fold(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client makes of a stream: the message, finish reason and logprobs of each choice."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            made = choices.setdefault(
                choice["index"], {"content": "", "reasoning": "", "calls": [], "logprobs": [], "finish": None}
            )
            delta = choice["delta"]
            made["content"] += delta.get("content") or ""
            made["reasoning"] += delta.get("reasoning_content") or ""
            for piece in delta.get("tool_calls", ()):
                if "id" in piece:
                    made["calls"].append({"id": piece["id"], "type": piece["type"], "function": piece["function"]})
                else:
                    made["calls"][piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
            made["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
            made["finish"] = choice["finish_reason"] or made["finish"]
    return choices


def test_stream_has_openais_shape(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo")
    response = chat_api.post(PATH, HELLO | {"stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.text.endswith("data: [DONE]\n\n")
    chunks = parse_events(response.text)
    first = chunks[0]
    assert first["id"].startswith("chatcmpl-")
    assert isinstance(first["created"], int)
    assert first["system_fingerprint"].startswith("fp_")
    for chunk in chunks:
        assert {key: chunk[key] for key in ("id", "created", "system_fingerprint")} == {
            key: first[key] for key in ("id", "created", "system_fingerprint")
        }
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["model"] == "scripted"
        assert "usage" not in chunk
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [{"role": "assistant"}, {"content": "Hel"}, {"content": "lo"}, {}]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert all(choice["index"] == 0 and choice["logprobs"] is None for choice in choices)


def test_answer_has_openais_shape(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo", prompt_tokens=9, cached_tokens=4)
    answer = chat_api.post(PATH, HELLO).json()
    assert answer.pop("id").startswith("chatcmpl-")
    assert isinstance(answer.pop("created"), int)
    assert answer.pop("system_fingerprint").startswith("fp_")
    assert answer == {
        "object": "chat.completion",
        "model": "scripted",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_answer_is_the_fold_of_the_stream(chat_api: Api, worker: ScriptedWorker) -> None:
    for answer in (Answer(), TOOL_ANSWER, Answer(deltas=(Delta("", text="é", logprobs=[TOKEN]),), reason="length")):
        worker.reply(answer)
        body = HELLO | {"n": 2, "logprobs": True, "top_logprobs": 2}
        whole = chat_api.post(PATH, body).json()
        folded = fold(parse_events(chat_api.post(PATH, body | {"stream": True}).text))
        assert len(whole["choices"]) == len(folded) == 2
        for choice in whole["choices"]:
            streamed, message = folded[choice["index"]], choice["message"]
            assert streamed["content"] == (message["content"] or "")
            assert streamed["reasoning"] == message.get("reasoning_content", "")
            assert streamed["calls"] == message.get("tool_calls", [])
            assert streamed["finish"] == choice["finish_reason"] == answer.reason
            assert streamed["logprobs"] == (choice["logprobs"] or {"content": []})["content"]


def test_usage_chunk_comes_last_and_only_when_asked_for(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hel", "lo", prompt_tokens=9, cached_tokens=4)
    body = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = parse_events(chat_api.post(PATH, body).text)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 11
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


def test_tool_call_names_itself_once_then_only_its_arguments_grow(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(TOOL_ANSWER)
    body = HELLO | {"stream": True, "tools": [{"type": "function", "function": {"name": "weather"}}]}
    chunks = parse_events(chat_api.post(PATH, body).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[1:3] == [{"reasoning_content": "Let me "}, {"reasoning_content": "look."}]
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    assert deltas[3] == {"tool_calls": [first]}
    assert deltas[4] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}
    assert [[call["index"] for call in delta["tool_calls"]] for delta in deltas[5:7]] == [[0], [1]]
    message = chat_api.post(PATH, {key: body[key] for key in body if key != "stream"}).json()["choices"][0]["message"]
    assert message["content"] is None
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}


def test_pieces_of_calls_that_come_in_one_step_are_a_chunk_each(chat_api: Api, worker: ScriptedWorker) -> None:
    begin = ToolCallDelta(0, "call_1", "weather")
    calls = [begin, ToolCallDelta(0, arguments='{"'), ToolCallDelta(1, "call_2", "time")]
    worker.reply(Answer(deltas=(Delta("", text="Look: ", tool_calls=calls),), reason="tool_calls"))
    body = HELLO | {"stream": True, "tools": [{"type": "function", "function": {"name": "weather"}}]}
    deltas = [chunk["choices"][0]["delta"] for chunk in parse_events(chat_api.post(PATH, body).text)][1:4]
    assert [len(delta["tool_calls"]) for delta in deltas] == [1, 1, 1]
    assert [delta.get("content") for delta in deltas] == ["Look: ", None, None]
    assert [piece["function"]["arguments"] for delta in deltas for piece in delta["tool_calls"]] == ["", '{"', ""]


def test_logprobs_have_the_exact_shape(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(deltas=(Delta("", text="", logprobs=[TOKEN]), Delta("", text="é"))))
    choice = chat_api.post(PATH, HELLO | {"logprobs": True, "top_logprobs": 2}).json()["choices"][0]
    top = [
        {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
        {"token": "e", "logprob": -1.0, "bytes": [101]},
    ]
    assert choice["logprobs"] == {"content": [top[0] | {"top_logprobs": top}], "refusal": None}


def test_tokens_that_are_no_text_yet_send_nothing(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("", "ab", "", "c")
    chunks = parse_events(chat_api.post(PATH, HELLO | {"stream": True}).text)
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:-1]] == [{"content": "ab"}, {"content": "c"}]


def test_text_is_encoded_exactly(chat_api: Api, worker: ScriptedWorker) -> None:
    text = 'a"b\\c\nd\re\u2028f\x00 é 漢字 🙂 </script>'
    worker.say(text)
    chunks = parse_events(chat_api.post(PATH, HELLO | {"stream": True}).text)
    assert chunks[1]["choices"][0]["delta"]["content"] == text
    assert chat_api.post(PATH, HELLO).json()["choices"][0]["message"]["content"] == text


def test_what_was_asked_reaches_the_worker(chat_api: Api, worker: ScriptedWorker) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    body = {"temperature": 0.5, "seed": 3, "n": 2, "stop": ["END"], "tools": tools, "tool_choice": "none"}
    chat_api.post(PATH, HELLO | body | {"chat_template_kwargs": {"x": 1}})
    sent = worker.generates[0]
    assert (sent.kind, sent.n, sent.tools, sent.tool_choice) == ("chat", 2, tools, "none")
    assert (sent.sampling.temperature, sent.sampling.seed, sent.sampling.stop) == (0.5, 3, ("END",))
    assert sent.messages == HELLO["messages"]
    assert sent.chat_template_kwargs == {"x": 1}


def test_paths_with_and_without_v1_are_the_same(chat_api: Api) -> None:
    assert chat_api.post("/chat/completions", HELLO).json()["object"] == "chat.completion"


def test_usage_row_has_the_id_of_the_answer(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", "c", prompt_tokens=4)
    answer = chat_api.post(PATH, HELLO).json()
    recorder.flush()
    row = UsageRecord.objects.get(pk=answer["id"])
    assert (row.prompt_tokens, row.completion_tokens, row.endpoint) == (4, 3, "chat.completions")


def test_pinned_revision_is_echoed(scripted_model: HostedModel, chat_api: Api) -> None:
    HostedModel.objects.filter(pk=scripted_model.pk).update(revision="main")
    directory.invalidate()
    assert chat_api.post(PATH, HELLO | {"model": "scripted@main"}).json()["model"] == "scripted@main"
    assert chat_api.post(PATH, HELLO | {"model": "scripted@other"}).status_code == 404


def test_headers_come_before_the_first_token(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("late", hold_after=0)
    with stream(chat_api, PATH, HELLO | {"stream": True}) as response:
        assert response.status_code == 200
        worker.wait_for(lambda worker: worker.num_running == 1)
        worker.release()
        assert "late" in "".join(response.iter_text())


def test_a_number_that_no_worker_can_read_is_refused(chat_api: Api) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"maximum": 10**30}}}
    response = chat_api.post(PATH, HELLO | {"tools": [tool]})
    assert response.status_code == 400
    assert "64 bits" in response.json()["error"]["message"]
    recorder.flush()
    assert UsageRecord.objects.get().error_code == "invalid_request_error"
