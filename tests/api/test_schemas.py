"""Request bodies: what is honoured, what is accepted without effect, what is refused and how it is named."""

import json
from typing import Any

import pytest

from apps.accounts.caller import Caller
from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.parameters import BOOKKEEPING, CHAT_NEUTRAL, COMPLETION_NEUTRAL
from apps.openai_api.schemas.chat import parse_chat
from apps.openai_api.schemas.completions import parse_completion

CALLER = Caller(user_id=1, username="ann", team_id=1, key_id=1)
HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> Any:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO} | fields).encode(), CALLER).request


def completion(**fields: Any) -> Any:
    return parse_completion(json.dumps({"model": "m", "prompt": "once"} | fields).encode(), CALLER)


def param_of_refusal(parse: Any, **fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    return caught.value.param


def test_sampling_holds_only_what_was_given() -> None:
    assert chat().sampling == {}


def test_sampling_is_named_as_the_worker_names_it() -> None:
    request = chat(
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        logit_bias={"5": -100},
        seed=-1,
        max_tokens=7,
        min_tokens=2,
        stop="END",
        stop_token_ids=[3],
        ignore_eos=True,
        logprobs=True,
        top_logprobs=4,
    )
    assert request.sampling == {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "logit_bias": {5: -100.0},
        "seed": 2**63 - 1,
        "max_tokens": 7,
        "min_tokens": 2,
        "stop": ("END",),
        "stop_token_ids": (3,),
        "ignore_eos": True,
        "top_logprobs": 4,
    }


def test_max_completion_tokens_wins_over_its_old_name() -> None:
    assert chat(max_tokens=5, max_completion_tokens=9).sampling["max_tokens"] == 9


def test_top_p_may_be_0() -> None:
    assert chat(top_p=0).sampling == {"top_p": 0}


def test_logprobs_alone_are_of_the_chosen_token() -> None:
    assert chat(logprobs=True).sampling == {"top_logprobs": 0}


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_every_64_bit_seed_becomes_one_the_worker_takes(seed: int) -> None:
    assert 0 <= chat(seed=seed).sampling["seed"] < 2**63


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "x", "function_call": {}}]}, "messages[0].function_call"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"min_tokens": 10**40}, "min_tokens"),
        ({"top_k": 10**40}, "top_k"),
        ({"stop_token_ids": [10**40]}, "stop_token_ids[0]"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize"),
        ({"reasoning_effort": "immense"}, "reasoning_effort"),
        ({"input": "hi"}, "input"),
        ({"messages": None, "input": [{"type": "computer_call"}]}, "input[0]"),
        ({"temprature": 1}, "temprature"),
        ({"generation_config": "{"}, "generation_config"),
        ({"generation_config": {"temperature": 9}}, "generation_config.temperature"),
        ({"generation_config": {"num_beams": 4}}, "generation_config.num_beams"),
        ({"generation_config": {"made_up": 4}}, "generation_config.made_up"),
    ],
)
def test_wrong_chat_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert param_of_refusal(chat, **fields) == param


def test_unknown_field_has_its_own_code() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(temprature=1)
    assert caught.value.code == "unknown_parameter"


@pytest.mark.parametrize("name", sorted(BOOKKEEPING.keys() - {"stream_options"}))  # which is honoured here
def test_bookkeeping_field_is_accepted_with_any_value(name: str) -> None:
    assert chat(**{name: {"any": ["thing", 1]}}).sampling == {}
    assert completion(**{name: 3}).requests[0].sampling == {"max_tokens": 16}


@pytest.mark.parametrize("name", sorted(CHAT_NEUTRAL))
def test_refused_chat_field_passes_at_its_neutral_values_only(name: str) -> None:
    for value in (None, *CHAT_NEUTRAL[name]):
        chat(**{name: value})
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**{name: {"something": "else"}})
    assert caught.value.param == name


@pytest.mark.parametrize("name", sorted(COMPLETION_NEUTRAL))
def test_refused_completion_field_passes_at_its_neutral_values_only(name: str) -> None:
    for value in (None, *COMPLETION_NEUTRAL[name]):
        completion(**{name: value})
    with pytest.raises(UnsupportedParameter) as caught:
        completion(**{name: {"something": "else"}})
    assert caught.value.param == name


def test_tools_in_both_shapes_mean_the_same() -> None:
    function = {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}
    nested = chat(tools=[{"type": "function", "function": function}], tool_choice="auto", parallel_tool_calls=False)
    flat = chat(tools=[{"type": "function", **function, "strict": False}])
    assert nested.tools == flat.tools == [{"type": "function", "function": function}]
    assert nested.tool_choice == "auto"
    assert nested.parallel_tool_calls is False


def test_no_tools_is_the_same_as_an_empty_list() -> None:
    assert chat(tools=[], tool_choice="none").tools is None


def test_messages_reach_the_worker_in_one_form() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    request = chat(
        messages=[
            {"role": "developer", "content": "be brief"},  # its name in the template, the worker knows
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"role": "assistant", "tool_calls": [call], "reasoning_content": "hm", "annotations": []},
            {"role": "tool", "tool_call_id": "c1", "content": "42", "name": "f"},
        ]
    )
    assert request.messages == [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "content": "42", "name": "f", "tool_call_id": "c1"},
    ]


def test_body_in_the_shape_of_the_responses_api_is_read_as_messages() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
    ]
    request = chat(messages=None, input=items, instructions="be brief", max_output_tokens=5)
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.sampling["max_tokens"] == 5
    assert chat(messages=None, input="hello").messages == HELLO


def test_thinking_switches_reach_the_worker() -> None:
    assert chat(enable_thinking=False).enable_thinking is False
    assert chat(reasoning_effort="none").reasoning_effort == "none"
    assert (chat().enable_thinking, chat().reasoning_effort, chat().chat_template_kwargs) == (None, None, None)


def test_generation_config_as_text_and_as_object_mean_the_same() -> None:
    config = {"do_sample": True, "max_new_tokens": 256, "top_k": 5, "eos_token_id": [1, 2], "use_cache": True}
    expected = {"max_tokens": 256, "top_k": 5, "stop_token_ids": (1, 2)}
    assert chat(generation_config=json.dumps(config)).sampling == expected
    assert chat(generation_config=config).sampling == expected


def test_generation_config_without_sampling_is_greedy_and_fields_of_the_body_win() -> None:
    assert chat(generation_config={"do_sample": False}).sampling == {"temperature": 0.0}
    assert chat(generation_config={"max_new_tokens": 5}, max_tokens=9).sampling == {"max_tokens": 9}


def test_continued_message_comes_with_vllms_companion_field() -> None:
    assert chat(continue_final_message=True, add_generation_prompt=False).continue_final_message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": }', b"[" * 100_000])
def test_malformed_body_is_a_clear_400(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"JSON|nested"):
        parse_chat(body, CALLER)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_every_shape_of_prompt(prompt: Any, expected: list[Any]) -> None:
    call = completion(prompt=prompt)
    assert [request.prompt for request in call.requests] == expected
    assert len({request.id for request in call.requests}) == len(expected)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": 1, "echo": True, "suffix": "b"}, "logprobs"),
        ({"messages": HELLO}, "messages"),
    ],
)
def test_wrong_completion_field_is_named(fields: dict[str, Any], param: str) -> None:
    assert param_of_refusal(completion, **fields) == param
