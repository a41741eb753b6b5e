"""/v1/messages: what the worker is asked for a request, and what the client is told of its answer."""

import json
from typing import Any

import httpx
import pytest

from apps.registry.models import HostedModel
from gpu_worker.protocol import Delta, Generate, ToolCallDelta
from tests.api.conftest import Api, wait_for_settled_rows
from tests.scripted_worker import Answer, ScriptedWorker

Body = dict[str, Any]

HELLO = [{"role": "user", "content": "hello"}]
LOOK = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": [1, 2]}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
EVERYTHING = Answer(
    deltas=(
        Delta("", reasoning="h"),
        Delta("", reasoning="m"),
        Delta("", text="I "),
        Delta("", text='"look"'),
        Delta("", tool_calls=[ToolCallDelta(0, "call_1", "look", "")]),
        Delta("", tool_calls=[ToolCallDelta(0, arguments='{"at":')]),
        Delta("", tool_calls=[ToolCallDelta(0, arguments="1}"), ToolCallDelta(1, "call_2", "look", "{}")]),
    ),
    reason="tool_calls",
    prompt_tokens=9,
    cached_tokens=4,
)


def send(api: Api, **fields: object) -> httpx.Response:
    return api.post("/v1/messages", {"model": "scripted", "max_tokens": 50, "messages": HELLO, **fields})


def ask(api: Api, worker: ScriptedWorker, **fields: object) -> Generate:
    """What the worker was asked."""
    answer = send(api, **fields)
    assert answer.status_code == 200, answer.text
    return worker.generates[-1]


def read_events(text: str) -> list[Body]:
    """The events, each of which names itself twice."""
    events = []
    for block in text.split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def fold(events: list[Body]) -> Body:
    """The message that the events tell of, in the order that clients rely on."""
    assert [event["type"] for event in events[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    message, partial = dict(events[0]["message"]), ""
    for event in events[2:-2]:
        match event:
            case {"type": "content_block_start"}:
                assert event["index"] == len(message["content"])
                message["content"] = [*message["content"], event["content_block"]]
                partial = ""
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta"} as delta}:
                partial += delta["partial_json"]
            case {"type": "content_block_delta", "delta": {"type": "signature_delta"} as delta}:
                message["content"][-1]["signature"] = delta["signature"]
            case {"type": "content_block_delta", "delta": delta}:
                field = delta["type"].removesuffix("_delta")
                message["content"][-1][field] += delta[field]
            case {"type": "content_block_stop"} if partial:
                message["content"][-1]["input"] = json.loads(partial)
    return message | events[-2]["delta"] | {"usage": message["usage"] | events[-2]["usage"]}


@pytest.mark.parametrize("fields", [{}, {"thinking": {"type": "adaptive", "display": "omitted"}}], ids=["", "omitted"])
def test_the_whole_message_is_what_the_stream_adds_up_to(chat_api: Api, worker: ScriptedWorker, fields: Body) -> None:
    worker.reply(EVERYTHING)
    whole = send(chat_api, **fields).json()
    streamed = send(chat_api, stream=True, **fields)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert fold(read_events(streamed.text)) | {"id": whole["id"]} == whole
    thinking, text, first, second = whole["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "" if fields else "hm")
    assert thinking["signature"]
    assert text == {"type": "text", "text": 'I "look"'}
    assert first == {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": 1}}
    assert second == {"type": "tool_use", "id": "call_2", "name": "look", "input": {}}
    assert whole["id"].startswith("msg_")
    assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", "scripted")
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("tool_use", None)
    assert whole["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 0},
    }
    assert {row.endpoint for row in wait_for_settled_rows(2)} == {"messages"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer.of("a"), ("end_turn", None)),
        (Answer.of("a", stop=7), ("end_turn", None)),
        (Answer.of("a", stop="END"), ("stop_sequence", "END")),
        (Answer.of(*"ab", reason="length"), ("max_tokens", None)),
        (Answer.of("a", reason="length"), ("model_context_window_exceeded", None)),
        (Answer.of("a", reason="content_filter"), ("refusal", None)),
    ],
    ids=["end", "stop-token", "stop-text", "max-tokens", "context", "refusal"],
)
def test_stop_reasons(chat_api: Api, worker: ScriptedWorker, answer: Answer, expected: tuple[str, str | None]) -> None:
    worker.reply(answer)
    message = send(chat_api, max_tokens=2).json()
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_a_call_that_was_cut_has_no_input(chat_api: Api, worker: ScriptedWorker) -> None:
    call = ToolCallDelta(0, "call_1", "look", '{"at":')
    worker.reply(Answer(deltas=(Delta("", tool_calls=[call]),), reason="length"))
    message = send(chat_api, max_tokens=1).json()
    assert (message["stop_reason"], message["content"][0]["input"]) == ("max_tokens", {})


def test_an_answer_of_nothing(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(deltas=()))
    assert send(chat_api).json()["content"] == []
    assert fold(read_events(send(chat_api, stream=True).text))["content"] == []


def test_sampling_and_bookkeeping(chat_api: Api, worker: ScriptedWorker) -> None:
    asked = ask(
        chat_api,
        worker,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop_sequences=["a", "b"],
        metadata={"user_id": "somebody"},
        service_tier="auto",
        cache_control={"type": "ephemeral"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        speed="standard",
        container=None,
    )
    sampling = asked.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (50, 0.5, 0.9, 3)
    assert sampling.stop == ("a", "b")


def test_turns_become_messages(chat_api: Api, worker: ScriptedWorker) -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a", **cached}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "thinking", "thinking": "", "signature": "x"},
                {"type": "text", "text": "I look", "citations": None},
                CALL,
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "a tree"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "gone", "is_error": True},
                {"type": "tool_result", "tool_use_id": "toolu_3"},
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "system", "content": "Be quick."},
    ]
    system = [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind.", **cached}]
    call = {"type": "function", "id": "toolu_1", "function": {"name": "look", "arguments": '{"at":[1,2]}'}}
    assert ask(chat_api, worker, messages=turns, system=system).messages == [
        {"role": "system", "content": "Be\nkind."},
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "I look", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "a tree"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: gone"},
        {"role": "tool", "tool_call_id": "toolu_3", "content": ""},
        {"role": "user", "content": "and?"},
        {"role": "system", "content": "Be quick."},
    ]


def test_a_last_turn_of_the_assistant_is_gone_on_from(chat_api: Api, worker: ScriptedWorker) -> None:
    asked = ask(chat_api, worker, messages=[*HELLO, {"role": "assistant", "content": "He"}])
    assert asked.continue_final_message
    assert not ask(chat_api, worker).continue_final_message


def test_images_also_in_results(chat_api: Api, worker: ScriptedWorker) -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [IMAGE], "is_error": True}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [result]},
    ]
    asked = ask(chat_api, worker, messages=turns)
    assert asked.messages is not None
    assert [[part["type"] for part in asked.messages[i]["content"]] for i in (0, 2)] == [["text", "image"]] * 2
    assert len(asked.media or {}) == 1


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, (None, True)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", False)),
        ({"type": "any"}, ("required", True)),
        ({"type": "tool", "name": "look"}, ({"type": "function", "function": {"name": "look"}}, True)),
        ({"type": "none"}, ("none", True)),
    ],
    ids=["absent", "auto", "any", "tool", "none"],
)
def test_tools_and_the_choice_among_them(
    chat_api: Api, worker: ScriptedWorker, choice: object, expected: tuple[object, bool]
) -> None:
    strict = {**LOOK, "name": "see", "type": "custom", "strict": True, "cache_control": {"type": "ephemeral"}}
    asked = ask(chat_api, worker, tools=[LOOK, strict], tool_choice=choice)
    look = {"name": "look", "description": "Looks.", "parameters": LOOK["input_schema"]}
    assert asked.tools == [
        {"type": "function", "function": look},
        {"type": "function", "function": look | {"name": "see", "strict": True}},
    ]
    assert (asked.tool_choice, asked.parallel_tool_calls) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, "off", None)),
        ({"thinking": {"type": "adaptive"}}, (None, "on", None)),
        ({"thinking": {"type": "enabled"}}, (True, "auto", None)),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, (True, "auto", None)),
        ({"thinking": {"type": "disabled"}}, (False, "auto", None)),
        ({"output_config": {"effort": "low"}}, (None, "off", "low")),
    ],
    ids=["absent", "adaptive", "enabled", "budget", "disabled", "effort"],
)
def test_thinking(chat_api: Api, worker: ScriptedWorker, fields: Body, expected: tuple[object, ...]) -> None:
    asked = ask(chat_api, worker, **fields)
    assert (asked.enable_thinking, asked.reasoning, asked.reasoning_effort) == expected
    assert asked.neutral_effort == "high"
    assert asked.thinking_budget == fields.get("thinking", {}).get("budget_tokens")


def test_the_model_s_own_setting_wins_over_the_api_s_default(
    chat_api: Api, worker: ScriptedWorker, scripted_model: HostedModel
) -> None:
    HostedModel.objects.filter(pk=scripted_model.pk).update(reasoning="on")
    assert ask(chat_api, worker).reasoning == "on"


@pytest.mark.parametrize("field", ["output_config.format", "output_format"])
def test_an_enforced_form(chat_api: Api, worker: ScriptedWorker, field: str) -> None:
    form: Body = {"type": "json_schema", "schema": {"type": "object"}}
    fields = {"output_format": form} if field == "output_format" else {"output_config": {"format": form}}
    structure = ask(chat_api, worker, **fields).structure
    assert structure is not None
    assert (structure.kind, structure.value, structure.param) == ("json_schema", '{"type":"object"}', field)


def test_a_failure_in_the_middle_is_an_event(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", fail="invalid_request", fail_after=1, fail_message="it broke")
    *_, last = read_events(send(chat_api, stream=True).text)
    assert last["error"] == {"type": "invalid_request_error", "message": "it broke"}
    whole = send(chat_api)
    assert (whole.status_code, whole.json()["error"]["message"]) == (400, "it broke")
    assert [row.error_code for row in wait_for_settled_rows(2)] == ["invalid_request_error"] * 2


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_stops_the_answer(chat_api: Api, worker: ScriptedWorker, stream: bool) -> None:
    worker.say("a", "b", "c", hold_after=1)
    body = {"model": "scripted", "max_tokens": 50, "messages": HELLO, "stream": stream}
    with chat_api.connect("/v1/messages", json.dumps(body).encode()):
        worker.wait_for(lambda worker: worker.num_sent == 1)
    worker.wait_for(lambda worker: worker.aborted != [])
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == ("cancelled", 1)
