"""POST /v1/responses: whole and streamed, calls and reasoning, failures, and what reaches the worker."""

import json
from typing import Any

import pytest

from apps.registry import directory
from apps.registry.models import HostedModel
from apps.usage.models import UsageStatus
from gpu_worker.protocol import Delta, Structure, TokenLogprob, ToolCallDelta, TopLogprob
from tests.api.conftest import Api, wait_for_settled_rows
from tests.api.open_responses import check_response, check_stream
from tests.api.sse import parse_comments, stream
from tests.scripted_worker import Answer, ScriptedWorker

PATH = "/v1/responses"
HELLO = {"model": "scripted", "input": "hello"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
FILES = {
    "type": "namespace",
    "name": "mcp__files",
    "description": "files",
    "tools": [{"type": "function", "name": "read"}],
}
CALL = (
    Delta("", tool_calls=[ToolCallDelta(0, "call_1", "weather")]),
    Delta("", tool_calls=[ToolCallDelta(0, arguments='{"city":')]),
    Delta("", tool_calls=[ToolCallDelta(0, arguments='"Oslo"}')]),
)
# The events of the recorded stream of transformers serve, by type: 12 deltas, some of them empty.
RECORDED = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 6,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def parse_stream(text: str) -> list[dict[str, Any]]:
    """Every event, whose `event:` line is its type; the stream must end with [DONE]."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def ask(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post(PATH, HELLO | fields)
    assert response.status_code == 200, response.text
    check_response(response.json())
    return response.json()


def ask_stream(api: Api, **fields: Any) -> list[dict[str, Any]]:
    response = api.post(PATH, HELLO | {"stream": True} | fields)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = parse_stream(response.text)
    check_stream(events)
    return events


def refuse(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post(PATH, HELLO | fields)
    assert response.status_code == 400, response.text
    return response.json()["error"]


def test_stream_is_the_recorded_one(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("Hello! ", "How ", "can ", "I ", "assist ", "you today?")
    events = ask_stream(chat_api, instructions="You are a helpful assistant.", metadata={"foo": "bar"})
    assert [event["type"] for event in events] == RECORDED
    created, final = events[0]["response"], events[-1]["response"]
    assert (created["status"], events[1]["response"]["status"]) == ("queued", "in_progress")
    assert created["output"] == []
    assert (created["instructions"], created["metadata"]) == ("You are a helpful assistant.", {"foo": "bar"})
    assert (created["tool_choice"], created["tools"], created["text"]["format"]) == ("auto", [], {"type": "text"})
    (message,) = final["output"]
    assert message == {
        "id": message["id"],
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {
                "type": "output_text",
                "text": "Hello! How can I assist you today?",
                "annotations": [],
                "logprobs": [],
            }
        ],
    }
    assert message["id"].startswith("msg_")
    assert final["usage"]["output_tokens"] == 6


def test_answer_is_the_last_response_of_the_stream(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.reply(Answer(deltas=(Delta("", reasoning="hm"), Delta("", text="hi"), *CALL), reason="tool_calls"))
    streamed = ask_stream(chat_api, tools=[WEATHER])[-1]["response"]
    whole = ask(chat_api, tools=[WEATHER])

    def forget_names(response: dict[str, Any]) -> dict[str, Any]:
        output = [{**item, "id": item["id"].split("_")[0]} for item in response["output"]]
        return response | {"id": "", "created_at": 0, "completed_at": 0, "output": output}

    assert forget_names(whole) == forget_names(streamed)
    assert whole["id"].startswith("resp_")
    assert whole["created_at"] <= whole["completed_at"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
    assert [item["id"].split("_")[0] for item in whole["output"]] == ["rs", "msg", "fc"]


def test_usage_counts_cached_and_all_tokens(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", prompt_tokens=9, cached_tokens=4)
    assert ask(chat_api)["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 11,
    }
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.endpoint, row.completion_tokens) == (UsageStatus.OK, "responses", 2)


def test_parallel_calls_are_items_of_their_own(chat_api: Api, worker: ScriptedWorker) -> None:
    second = Delta("", tool_calls=[ToolCallDelta(1, "call_2", "weather"), ToolCallDelta(1, arguments="{}")])
    worker.reply(Answer(deltas=(*CALL, second), reason="tool_calls"))
    final = ask_stream(chat_api, tools=[WEATHER])[-1]["response"]
    assert [(item["call_id"], item["arguments"]) for item in final["output"]] == [
        ("call_1", '{"city":"Oslo"}'),
        ("call_2", "{}"),
    ]
    assert final["status"] == "completed"
    assert len({item["id"] for item in final["output"]}) == 2


def test_end_of_a_call_and_what_follows_may_come_together(chat_api: Api, worker: ScriptedWorker) -> None:
    together = Delta(
        "", text="then", tool_calls=[ToolCallDelta(0, arguments="{}"), ToolCallDelta(1, "call_2", "weather", "{}")]
    )
    worker.reply(Answer(deltas=(CALL[0], together), reason="tool_calls"))
    final = ask_stream(chat_api, tools=[WEATHER])[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["function_call", "message", "function_call"]


def test_functions_of_a_namespace_are_called_by_both_names(chat_api: Api, worker: ScriptedWorker) -> None:
    call = Delta("", tool_calls=[ToolCallDelta(0, "call_1", "mcp__files__read", "{}")])
    worker.reply(Answer(deltas=(call,), reason="tool_calls"))
    history = [
        {"role": "user", "content": "read"},
        {"type": "function_call", "namespace": "mcp__files", "name": "read", "call_id": "c", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "text"},
    ]
    answer = ask(chat_api, input=history, tools=[FILES, WEATHER])
    (item,) = answer["output"]
    assert (item["namespace"], item["name"]) == ("mcp__files", "read")
    (sent,) = worker.generates
    assert [tool["function"]["name"] for tool in sent.tools or []] == ["mcp__files__read", "weather"]
    assert (sent.messages or [])[1]["tool_calls"][0]["function"]["name"] == "mcp__files__read"
    assert answer["tools"][0]["type"] == "namespace"


def test_items_of_one_turn_reach_the_worker_as_one_message(chat_api: Api, worker: ScriptedWorker) -> None:
    ask(
        chat_api,
        instructions="be brief",
        input=[
            {"role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
        ],
    )
    (sent,) = worker.generates
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert sent.messages == [
        {"role": "system", "content": "be brief\nbe kind"},
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", **call}, {"id": "c2", **call}],
        },
        {"role": "tool", "content": "sun", "tool_call_id": "c1"},
        {"role": "tool", "content": "rain", "tool_call_id": "c2"},
    ]


def test_parameters_reach_the_worker_and_come_back(chat_api: Api, worker: ScriptedWorker) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer = ask(
        chat_api,
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        presence_penalty=1,
        parallel_tool_calls=False,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        text={"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}},
        reasoning={"effort": "low", "summary": "auto"},
        metadata={"a": "b"},
        user="ann",
        safety_identifier="x",
        prompt_cache_key="k",
        truncation="auto",
        max_tool_calls=3,
        include=["reasoning.encrypted_content"],
        store=False,
    )
    (sent,) = worker.generates
    assert (sent.sampling.temperature, sent.sampling.top_p, sent.sampling.max_tokens) == (0.5, 0.9, 7)
    assert sent.tool_choice == {"type": "function", "function": {"name": "weather"}}
    assert (sent.parallel_tool_calls, sent.reasoning_effort) == (False, "low")
    assert isinstance(sent.structure, Structure)
    assert (json.loads(sent.structure.value), sent.structure.param) == (schema, "text.format")
    assert answer["text"] == {
        "format": {"type": "json_schema", "name": "a", "description": None, "schema": schema, "strict": True},
        "verbosity": "medium",
    }
    echoed = ("temperature", "top_p", "max_output_tokens", "presence_penalty", "parallel_tool_calls", "metadata")
    assert [answer[name] for name in echoed] == [0.5, 0.9, 7, 1, False, {"a": "b"}]
    echoed = ("user", "safety_identifier", "prompt_cache_key", "truncation", "max_tool_calls", "store", "background")
    assert [answer[name] for name in echoed] == ["ann", "x", "k", "auto", 3, False, False]
    assert answer["tool_choice"] == {"type": "function", "name": "weather"}
    assert answer["tools"] == [{**WEATHER, "description": None, "strict": False}]
    assert answer["reasoning"] == {"effort": "low", "summary": "auto"}


def test_sampling_that_the_model_sets_is_told(chat_api: Api, scripted_model: HostedModel) -> None:
    HostedModel.objects.filter(pk=scripted_model.pk).update(generation_defaults={"temperature": 0.25})
    directory.invalidate()
    assert ask(chat_api)["temperature"] == 0.25


def test_logprobs_are_in_deltas_and_in_the_whole(chat_api: Api, worker: ScriptedWorker) -> None:
    def make(text: str) -> TokenLogprob:
        return TokenLogprob(1, text, -0.5, text.encode(), [TopLogprob(1, text, -0.5, text.encode())])

    worker.reply(Answer(deltas=(Delta("", text="a", logprobs=[make("a")]), Delta("", text="b", logprobs=[make("b")]))))
    events = ask_stream(chat_api, include=["message.output_text.logprobs"], top_logprobs=1)
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    (part,) = events[-1]["response"]["output"][0]["content"]
    assert [token["token"] for token in part["logprobs"]] == ["a", "b"]
    assert part["logprobs"] == deltas[0] + deltas[1]
    assert worker.generates[0].sampling.top_logprobs == 1


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_answer_that_is_cut_is_incomplete(chat_api: Api, worker: ScriptedWorker, reason: Any, told: str) -> None:
    worker.say("a", "b", reason=reason)
    events = ask_stream(chat_api)
    assert events[-1]["type"] == "response.incomplete"
    for answer in (events[-1]["response"], ask(chat_api)):
        assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": told})
        assert answer["output"][0]["status"] == "incomplete"
        assert answer["completed_at"] is None
        assert answer["usage"]["output_tokens"] == 2


def test_answer_without_a_word_is_an_empty_message(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("")
    (item,) = ask_stream(chat_api)[-1]["response"]["output"]
    assert (item["type"], item["content"][0]["text"]) == ("message", "")


def test_failure_in_the_middle_ends_the_stream_with_response_failed(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", fail="invalid_request", fail_after=2, fail_message="it broke")
    events = ask_stream(chat_api)
    final = events[-1]["response"]
    assert (final["status"], final["error"]) == ("failed", {"code": "invalid_prompt", "message": "it broke"})
    assert final["output"][0]["status"] == "incomplete"
    (row,) = wait_for_settled_rows(1)
    assert row.status == UsageStatus.ERROR
    assert chat_api.post(PATH, HELLO).status_code == 400


def test_failure_before_the_first_byte_is_a_status_that_names_the_field(chat_api: Api, worker: ScriptedWorker) -> None:
    items = [{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "c", "output": "b"}]
    for param, told in (
        ("messages[1].content[0].image_url", "input[1].output[0].image_url"),
        ("messages[0].content", "input[0].content"),
        ("messages", "input"),
        ("tools[0].function.parameters", "tools[0].tools[0].parameters"),
        ("tools[1].function.parameters", "tools[1].parameters"),
        ("reasoning_effort", "reasoning.effort"),
        ("max_tokens", "max_output_tokens"),
    ):
        worker.reply(Answer(fail="invalid_request", fail_param=param, fail_message=f"'{param}' is wrong"))
        for streamed in (False, True):
            error = refuse(chat_api, input=items, tools=[FILES, WEATHER], stream=streamed)
            assert (error["param"], error["message"]) == (told, f"'{told}' is wrong")


def test_waiting_is_told_in_comments_and_its_failure_in_an_error_event(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.set_loading(0.42)
    worker.reply(Answer(fail="invalid_request", fail_message="no"))
    with stream(chat_api, PATH, HELLO | {"stream": True}) as response:
        lines = response.iter_text()
        text = ""
        while "loading 42%" not in text:
            text += next(lines)
        worker.set_ready()
        text += "".join(lines)
    assert "loading 42%" in parse_comments(text), "perhaps after a first one, before the worker was heard"
    name, data = text.split("\n\n")[-2].split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["type"], error["sequence_number"], error["message"]) == ("error", 0, "no")
    assert error["error"]["type"] == "invalid_request_error"


def test_client_that_leaves_stops_the_answer(chat_api: Api, worker: ScriptedWorker) -> None:
    worker.say("a", "b", hold_after=1)
    with stream(chat_api, PATH, HELLO | {"stream": True}) as response:
        text = ""
        for chunk in response.iter_text():
            text += chunk
            if "output_text.delta" in text:
                break
    worker.wait_for(lambda worker: bool(worker.aborted))
    (row,) = wait_for_settled_rows(1)
    assert (row.status, row.completion_tokens) == (UsageStatus.CANCELLED, 1)


def test_only_post_creates(chat_api: Api) -> None:
    with chat_api.client() as client:
        response = client.get(PATH)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
