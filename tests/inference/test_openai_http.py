"""Requests in the words of each kind of server, and the streams that they were recorded or documented to send."""

import json
from typing import Any

import msgspec
import pytest

from apps.core.errors import UnsupportedParameter
from apps.inference.clients.openai_http.bodies import make_body
from apps.inference.clients.openai_http.dialects import DIALECTS
from apps.inference.clients.openai_http.events import AnswerReader
from apps.inference.clients.openai_http.sse import EventTooLarge, SSELines
from gpu_worker.protocol import AdapterRef, Delta, Finished, Generate, Sampling, Structure, ToolCallDelta, Usage

HELLO = [{"role": "user", "content": "hello"}]
ALWAYS = ("model", "stream", "stream_options", "messages")
KINDS = ("openai", "atrium", "vllm", "sglang", "tgi")


def write(dialect: str, *, base_url: str = "http://a/v1", **fields: Any) -> dict[str, Any]:
    """The body of this request, without what every one of them has."""
    sampling = fields.pop("sampling", {})
    values = {"id": "r", "kind": "chat", "sampling": Sampling(**{"seed": 0, **sampling}), "set_fields": tuple(sampling)}
    message = Generate(**{**values, "messages": HELLO, **fields})
    body = make_body(message, model="m", dialect=DIALECTS[dialect], base_url=base_url)
    written = json.loads(msgspec.json.encode(body.fields))
    return {
        name: value for name, value in written.items() if name not in ("model", "stream", "stream_options", "messages")
    }


SCHEMA = Structure("json_schema", '{"type":"object"}')
OPENAI_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "top_k": (
        {"sampling": {"top_k": 5}},
        {"openai": "top_k", "tgi": "top_k", "*": {"top_k": 5}},
    ),
    "no-top_k": ({"sampling": {"top_k": 0}}, {"openai": {}, "tgi": {}, "sglang": {"top_k": -1}, "*": {"top_k": 0}}),
    "logit_bias": ({"sampling": {"logit_bias": {7: 1.5}}}, {"tgi": "logit_bias", "*": {"logit_bias": {"7": 1.5}}}),
    "plain": (
        {"sampling": {"temperature": 0, "stop": ("a",), "max_tokens": 4, "top_logprobs": 2}},
        {"*": {"temperature": 0, "stop": ["a"], "max_tokens": 4, "logprobs": True, "top_logprobs": 2}},
    ),
    "n": ({"n": 2}, {"tgi": "n", "*": {"n": 2}}),
    "object": (
        {"structure": Structure("json_object")},
        {"tgi": "response_format", "*": {"response_format": {"type": "json_object"}}},
    ),
    "schema": (
        {"structure": SCHEMA},
        {
            "tgi": {
                "response_format": {
                    "type": "json_schema",
                    "value": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
            "*": {"response_format": OPENAI_SCHEMA},
        },
    ),
    "regex": (
        {"structure": Structure("regex", "a+", "guided_regex")},
        {
            "openai": "guided_regex",
            "sglang": {"regex": "a+"},
            "tgi": {"response_format": {"type": "regex", "value": "a+"}},
            "*": {"structured_outputs": {"regex": "a+"}},
        },
    ),
    "choice": (
        {"structure": Structure("choice", '["a","b"]', "guided_choice")},
        {
            **dict.fromkeys(("openai", "sglang", "tgi"), "guided_choice"),
            "*": {"structured_outputs": {"choice": ["a", "b"]}},
        },
    ),
    "grammar": (
        {"structure": Structure("grammar", "root ::= x", "guided_grammar")},
        {
            **dict.fromkeys(("openai", "tgi"), "guided_grammar"),
            "sglang": {"ebnf": "root ::= x"},
            "*": {"structured_outputs": {"grammar": "root ::= x"}},
        },
    ),
    "thinking": (
        {"enable_thinking": False},
        {
            **dict.fromkeys(("openai", "tgi"), "enable_thinking"),
            "*": {"chat_template_kwargs": {"enable_thinking": False}},
        },
    ),
    "setting-of-thinking": (
        {"reasoning": "off"},
        {"openai": {}, "tgi": {}, "*": {"chat_template_kwargs": {"enable_thinking": False}}},
    ),
    "effort": ({"reasoning_effort": "low"}, {"tgi": "reasoning_effort", "*": {"reasoning_effort": "low"}}),
    "continue": (
        {"continue_final_message": True},
        {
            **dict.fromkeys(("openai", "tgi"), "continue_final_message"),
            "*": {"continue_final_message": True, "add_generation_prompt": False},
        },
    ),
    "adapter": ({"adapter": AdapterRef("a", "b")}, {"*": "model"}),
    "echo": (
        {"kind": "completion", "prompt": "a", "echo": True, "sampling": {"top_logprobs": 1}},
        {"*": "logprobs"},
    ),
    "budget": ({"thinking_budget": 9}, {"*": "thinking_budget"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_is_written_or_refused_by_name(case: str, kind: str) -> None:
    fields, expected = REQUESTS[case]
    wanted = expected.get(kind, expected.get("*"))
    if isinstance(wanted, str):
        with pytest.raises(UnsupportedParameter) as caught:
            write(kind, **fields)
        assert caught.value.param == wanted
    else:
        assert write(kind, **fields) == wanted


def test_openai_itself_gets_the_later_name_of_max_tokens() -> None:
    sampling = {"max_tokens": 4}
    for url in ("https://api.openai.com/v1", "https://team.openai.azure.com/openai/v1"):
        assert write("openai", base_url=url, sampling=sampling) == {"max_completion_tokens": 4}
    assert write("openai", base_url="https://api.openai.com.evil.example/v1", sampling=sampling) == {"max_tokens": 4}


def test_pictures_and_recordings_become_data_urls() -> None:
    parts = [{"type": "text", "text": "?"}, {"type": "image", "media": "p"}, {"type": "audio", "media": "a"}]
    media = {"p": b"\x89PNG\r\n", "a": b"RIFF\0\0\0\0WAVE"}
    message = Generate("r", "chat", Sampling(seed=0), messages=[{"role": "user", "content": parts}], media=media)
    for kind, audio in (
        ("openai", {"type": "input_audio", "input_audio": {"data": "UklGRgAAAABXQVZF", "format": "wav"}}),
        ("vllm", {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,UklGRgAAAABXQVZF"}}),
    ):
        body = make_body(message, model="m", dialect=DIALECTS[kind], base_url="http://a/v1")
        [turn] = body.fields["messages"]
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}
        assert turn["content"] == [parts[0], image, audio]


def read(*chunks: dict[str, Any], n: int = 1) -> list[Delta | Finished]:
    reader = AnswerReader("r", n)
    events = [event for chunk in chunks for event in reader.read(json.dumps(chunk).encode())]
    assert reader.is_whole
    return [*events, reader.finish()]


def make_delta(finish: str | None = None, *, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def test_vllm_counts_as_it_goes_and_says_what_stopped_it() -> None:
    def usage(completion: int) -> dict[str, Any]:
        return {"prompt_tokens": 4, "total_tokens": 4 + completion, "completion_tokens": completion}

    events = read(
        {"choices": [{**make_delta(role="assistant", content=""), "logprobs": None}], "usage": usage(0)},
        {"choices": [make_delta(reasoning="hm")], "usage": usage(2)},
        {"choices": [{**make_delta(content="so"), "token_ids": None}], "usage": usage(5)},
        {"choices": [{**make_delta("stop", content=""), "stop_reason": 42}], "usage": usage(6)},
        {"choices": [], "usage": {**usage(6), "prompt_tokens_details": {"cached_tokens": 3}}},
    )
    assert [(type(event).__name__, len(getattr(event, "token_ids", ()))) for event in events] == [
        ("Delta", 2),
        ("Delta", 3),
        ("Finished", 0),
    ]
    assert (events[0].reasoning, events[1].text) == ("hm", "so")  # type: ignore[union-attr]
    assert events[-1] == Finished("r", "stop", stop=42, usage=Usage(4, 6, cached_tokens=3))


def test_sglang_streams_calls_and_counts_reasoning_beside_the_details() -> None:
    def call(name: str | None, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"id": "call_1" if name else None, "index": 0, "type": "function", "function": function}

    events = read(
        {"choices": [make_delta(role="assistant", content="", reasoning_content=None, tool_calls=None)]},
        {"choices": [make_delta(content=None, reasoning_content="hm")]},
        {"choices": [make_delta(content=None, tool_calls=[call("f", "")])]},
        {"choices": [make_delta(content=None, tool_calls=[call(None, '{"a":1}')])]},
        {"choices": [{**make_delta("tool_calls"), "matched_stop": None}]},
        {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 9, "reasoning_tokens": 3}},
    )
    pieces = [piece for event in events if isinstance(event, Delta) for piece in event.tool_calls or []]
    assert pieces == [ToolCallDelta(0, "call_1", "f"), ToolCallDelta(0, arguments='{"a":1}')]
    assert events[-1] == Finished("r", "tool_calls", usage=Usage(4, 9, reasoning_tokens=3))


def test_tgi_ends_in_its_own_words_and_has_one_call_with_the_arguments_as_object() -> None:
    call = {"index": 0, "id": "", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    events = read(
        {"choices": [{**make_delta(role="assistant", tool_calls=[call]), "logprobs": None}], "usage": None},
        {"choices": [make_delta("eos_token", role="assistant", content="")], "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 9, "total_tokens": 13}},
    )
    [piece] = events[0].tool_calls or []  # type: ignore[union-attr]
    assert (piece.name, piece.arguments) == ("f", '{"a":1}')
    assert piece.id
    assert events[-1] == Finished("r", "tool_calls", usage=Usage(4, 9))


def test_choices_end_one_by_one_and_the_last_has_the_usage() -> None:
    events = read(
        {"choices": [make_delta(content="a", index=1)]},
        {"choices": [make_delta("length", index=1)]},
        {"choices": [make_delta("stop", content="b", index=0)], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        n=2,
    )
    assert [(event.index, getattr(event, "last", None)) for event in events] == [
        (1, None),
        (1, False),
        (0, None),
        (0, True),
    ]


def test_text_completions_have_logprobs_of_their_own_shape() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.5, "a": -0.5}], "text_offset": [0]}
    [delta, _] = read({"choices": [{"index": 0, "text": "a", "logprobs": logprobs, "finish_reason": "length"}]})
    [token] = delta.logprobs or []  # type: ignore[union-attr]
    assert (token.token, token.bytes, [top.token for top in token.top]) == ("a", b"a", ["a", "b"])


def test_lines_are_put_together_from_any_pieces() -> None:
    text = b': comment\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata:{"b": "\xc3\xa9"}\n\ndata: [DONE]\n\n'
    for size in (1, 3, len(text)):
        lines = SSELines()
        found = [line for start in range(0, len(text), size) for line in lines.feed(text[start : start + size])]
        assert found == [b'{"a": 1}', '{"b": "é"}'.encode(), b"[DONE]"]


def test_a_line_without_end_is_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.inference.clients.openai_http.sse.MAX_EVENT_BYTES", 8)
    with pytest.raises(EventTooLarge):
        list(SSELines().feed(b"data: 123456789"))
