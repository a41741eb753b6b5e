"""Tokens as the model families write them, through the whole frontend: special tokens, reasoning and calls together."""

import json
from typing import Any, NamedTuple

import pytest
from tokenizers import AddedToken

from gpu_worker.frontend.prepare import Frontend, Limits
from gpu_worker.protocol import Generate, Sampling
from tests.worker.frontend.conftest import build_byte_level
from tests.worker.frontend.test_families import DS_CALL, DS_SEP, FAMILIES, TEMPLATES, TOOLS

DS_CALLS, DS_CALLS_END = "<\uff5ctool▁calls▁begin\uff5c>", "<\uff5ctool▁calls▁end\uff5c>"
DS_CALL_END = "<\uff5ctool▁call▁end\uff5c>"
ARGUMENTS = '{"city": "Paris"}'


class Answer(NamedTuple):
    text: str
    reasoning: str
    calls: list[tuple[str, Any]]
    reason: str


CALL = [("get_weather", {"city": "Paris"})]
ANSWERS = {
    "qwen3": (
        f'<think>\nHm.\n</think>\n\n<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
        Answer("", "Hm.", CALL, "tool_calls"),
    ),
    "qwen3_coder": (
        "Sure.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
        Answer("Sure.", "", CALL, "tool_calls"),
    ),
    "llama31": (f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}', Answer("", "", CALL, "tool_calls")),
    "llama_pythonic": ('[get_weather(city="Paris")]', Answer("", "", CALL, "tool_calls")),
    "lfm2": (
        "<|tool_call_start|>[get_weather(city='Paris')]<|tool_call_end|>Done.",
        Answer("Done.", "", CALL, "tool_calls"),
    ),
    "mistral": (
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
        Answer("", "", CALL, "tool_calls"),
    ),
    "magistral": (
        f"[THINK]Hm.[/THINK]Let me see.[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}",
        Answer("Let me see.", "Hm.", CALL, "tool_calls"),
    ),
    "deepseek_v3": (  # its template opens the reasoning
        f"Hm.\n</think>\n\n{DS_CALLS}{DS_CALL}function{DS_SEP}get_weather\n```json\n{ARGUMENTS}\n```{DS_CALL_END}{DS_CALLS_END}",
        Answer("", "Hm.", CALL, "tool_calls"),
    ),
    "deepseek_v31": (
        f"Sure.{DS_CALLS}{DS_CALL}get_weather{DS_SEP}{ARGUMENTS}{DS_CALL_END}{DS_CALLS_END}",
        Answer("Sure.", "", CALL, "tool_calls"),
    ),
    "glm45": (
        "\n<think>Hm.</think>\nSure.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        Answer("Sure.", "Hm.", CALL, "tool_calls"),
    ),
    "gpt_oss": (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{ARGUMENTS}<|call|>",
        Answer("", "Hm.", CALL, "tool_calls"),
    ),
    "functiongemma": (
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
        Answer("", "", CALL, "tool_calls"),
    ),
    "gemma4": (
        '<|channel>thought\nHm.\n<channel|><|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>',
        Answer("", "Hm.", CALL, "tool_calls"),
    ),
    "phi4_mini": (
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGUMENTS}}}]<|/tool_call|>',
        Answer("", "", CALL, "tool_calls"),
    ),
    "granite3": (
        "Here is my thought process:\n\nHm.\n\nHere is my response:\n\n"
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
        Answer("", "Hm.", CALL, "tool_calls"),
    ),
    "kimi_k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f"{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>",
        Answer("", "", CALL, "tool_calls"),
    ),
    "minimax_m2": (
        'Hm.\n</think>\n\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
        "</invoke>\n</minimax:tool_call>",
        Answer("", "Hm.", CALL, "tool_calls"),
    ),
}


def build(name: str, vocab_size: int | None = None) -> Frontend:
    """A byte-level tokenizer that has the family's markers as special tokens, as most of them do."""
    tokenizer = build_byte_level().hf
    template = (TEMPLATES / f"{name}.jinja").read_text()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in FAMILIES[name].tokens])
    markers = Frontend(tokenizer, Limits(4096, 10_000), template).template
    tokens = [t for parser in (markers.reasoning_parser, markers.tool_call_parser) if parser for t in parser.markers]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in dict.fromkeys(tokens)])
    eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return Frontend(tokenizer, Limits(4096, vocab_size or len(tokenizer), frozenset([eos_token_id])), template)


@pytest.fixture(scope="module")
def frontends() -> dict[str, Frontend]:
    return {name: build(name) for name in FAMILIES}


def read(frontend: Frontend, text: str, *, tools: bool = True, is_cut: bool = False, **fields: Any) -> Answer:
    """What the client gets of an answer, which the end token ends unless it is cut."""
    request = Generate(
        id="r",
        kind="chat",
        sampling=Sampling(seed=1),
        messages=[{"role": "user", "content": "Weather in Paris?"}],
        tools=TOOLS if tools else None,
        **fields,
    )
    stream = frontend.prepare(request).choices[0].stream
    pieces = [stream.advance(token_id) for token_id in frontend.tokenizer.encode(text, add_special_tokens=False)]
    if not is_cut:
        (eos_token_id,) = frontend.limits.eos_token_ids
        pieces.append(stream.advance(eos_token_id))
    pieces.append(stream.flush())
    names: list[str] = []
    arguments: list[str] = []
    for delta in [delta for piece in pieces for delta in piece.tool_calls or []]:
        if delta.name is not None:
            names.append(delta.name)
            arguments.append("")
        arguments[delta.index] += delta.arguments
    reasoning = "".join(piece.reasoning for piece in pieces)
    assert (stream.num_reasoning_tokens > 0) == bool(reasoning)
    return Answer(
        "".join(piece.text for piece in pieces),
        reasoning,
        [(name, json.loads(text)) for name, text in zip(names, arguments, strict=True)],
        stream.final_reason("length" if is_cut else "stop"),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_reasoning_text_and_calls_are_told_apart(frontends: dict[str, Frontend], name: str) -> None:
    text, expected = ANSWERS[name]
    fields = {"enable_thinking": True} if name == "gemma4" else {}
    assert read(frontends[name], text, **fields) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_answer_without_calls_is_as_the_model_wrote_it(frontends: dict[str, Frontend], name: str) -> None:
    fields = {"enable_thinking": False} if name in ("deepseek_v3", "minimax_m2") else {}
    text = "It is {sunny} in [Paris]: 18 < 20 degrees."
    assert read(frontends[name], text, **fields) == Answer(text, "", [], "stop")
    assert read(frontends[name], text, tools=False, **fields) == Answer(text, "", [], "stop")


@pytest.mark.parametrize("name", FAMILIES)
def test_cut_in_its_first_half_an_answer_is_no_call(frontends: dict[str, Frontend], name: str) -> None:
    text = ANSWERS[name][0]
    fields = {"enable_thinking": True} if name == "gemma4" else {}
    half = text[: text.index("get_weather") + 4]
    answer = read(frontends[name], half, is_cut=True, **fields)
    assert (answer.calls, answer.reason) == ([], "length")


def test_channels_of_gpt_oss(frontends: dict[str, Frontend]) -> None:
    frontend = frontends["gpt_oss"]
    final = "<|start|>assistant<|channel|>final<|message|>18 degrees.<|return|>"
    thinking = "<|channel|>analysis<|message|>Hm.<|end|>"
    assert read(frontend, thinking + final) == Answer("18 degrees.", "Hm.", [], "stop")
    more = "<|start|>assistant<|channel|>analysis<|message|>Well.<|end|>"
    assert read(frontend, thinking + more + final) == Answer("18 degrees.", "Hm.\n\nWell.", [], "stop")
    preamble = "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    assert read(frontend, thinking + preamble + final) == Answer("I look.\n\n18 degrees.", "Hm.", [], "stop")
    # the other place of the recipient, which the template uses for earlier calls
    call = " to=functions.get_weather<|channel|>commentary json<|message|>" + ARGUMENTS
    assert read(frontend, call) == Answer("", "", CALL, "tool_calls")
    # tools that are not offered: what the model wrote is text
    assert read(frontend, call, tools=False).text.endswith(f"to=functions.get_weather<|message|>{ARGUMENTS}")
    # a marker out of place
    assert read(frontend, "Yes.<|start|>user<|end|>") == Answer("Yes.\n\n<|start|>user", "", [], "stop")
    assert read(frontend, thinking + "<|start|>assistant<|chan", is_cut=True) == Answer("", "Hm.", [], "length")


def test_final_message_of_gpt_oss_is_continued(frontends: dict[str, Frontend]) -> None:
    frontend = frontends["gpt_oss"]
    request = Generate(
        id="r",
        kind="chat",
        sampling=Sampling(seed=1),
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, I"}],
        continue_final_message=True,
    )
    stream = frontend.prepare(request).choices[0].stream
    pieces = [stream.advance(i) for i in frontend.tokenizer.encode(" am here.", add_special_tokens=False)]
    assert "".join(piece.text for piece in [*pieces, stream.flush()]) == " am here."
