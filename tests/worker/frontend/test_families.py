"""Model families by their chat templates: the parsers that are chosen, how earlier calls are rendered, thinking.

`templates/` holds the parts that matter of the templates that the families publish.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tokenizers import AddedToken

from gpu_worker.frontend.chat_template import ChatTemplate
from gpu_worker.frontend.errors import RequestRejected
from gpu_worker.frontend.reasoning import ReasoningWish
from tests.worker.frontend.conftest import build_byte_level

TEMPLATES = Path(__file__).parent / "templates"
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]
DS_CALL, DS_SEP = "<\uff5ctool▁call▁begin\uff5c>", "<\uff5ctool▁sep\uff5c>"


class Family(NamedTuple):
    tool_calls: str | None
    reasoning: str | None
    history: str  # what a call of get_weather(city="Paris", days=2) looks like in the next prompt
    tokens: tuple[str, ...] = ()


FAMILIES = {
    "qwen3": Family(
        "hermes",
        "think",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>',
    ),
    "qwen3_coder": Family(
        "qwen_xml",
        None,
        "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n2\n</parameter>",
    ),
    "llama31": Family("llama", None, '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}<|eot_id|>'),
    "llama_pythonic": Family("pythonic", None, '<|python_start|>[get_weather(city="Paris", days=2)]<|python_end|>'),
    "lfm2": Family("lfm", None, "<|tool_call_start|>[get_weather(city='Paris', days=2)]<|tool_call_end|>"),
    "mistral": Family(
        "mistral", None, '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}, "id": "'
    ),
    "magistral": Family("mistral", "mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 2}'),
    "deepseek_v3": Family(
        "deepseek", "think", f'{DS_CALL}function{DS_SEP}get_weather\n```json\n{{"city": "Paris", "days": 2}}\n```'
    ),
    "deepseek_v31": Family("deepseek", "think", f'{DS_CALL}get_weather{DS_SEP}{{"city": "Paris", "days": 2}}'),
    "glm45": Family(
        "glm",
        "think",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    ),
    "gpt_oss": Family(
        "harmony",
        "harmony",
        "<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>"
        '{"city": "Paris", "days": 2}<|call|>',
    ),
    "functiongemma": Family(
        "functiongemma", None, "call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>"
    ),
    "gemma4": Family("gemma", "gemma", '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>'),
    "phi4_mini": Family(
        "granite",
        None,
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}]<|/tool_call|>',
        ("<|tool_call|>",),
    ),
    "granite3": Family(
        "granite", "granite", '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}]'
    ),
    "kimi_k2": Family(
        "kimi",
        None,
        "<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris", "days": 2}<|tool_call_end|>',
    ),
    "minimax_m2": Family(
        "minimax",
        "think",
        '<invoke name="get_weather"><parameter name="city">Paris</parameter><parameter name="days">2<',
    ),
}


def build(name: str) -> ChatTemplate:
    tokenizer = build_byte_level().hf
    tokenizer.add_tokens([AddedToken(token, special=True) for token in FAMILIES[name].tokens])
    return ChatTemplate(tokenizer, (TEMPLATES / f"{name}.jinja").read_text())


@pytest.fixture(scope="module")
def templates() -> dict[str, ChatTemplate]:
    return {name: build(name) for name in FAMILIES}


def get_name(parser: Any) -> str | None:
    return parser and parser.name


@pytest.mark.parametrize("name", FAMILIES)
def test_parsers_are_chosen_by_the_template(templates: dict[str, ChatTemplate], name: str) -> None:
    template = templates[name]
    chosen = (get_name(template.tool_call_parser), get_name(template.reasoning_parser))
    assert chosen == FAMILIES[name][:2]
    prompt = template.render([{"role": "user", "content": "Hi"}], tools=TOOLS)
    assert "get_weather" in prompt.text
    assert "get_weather" not in template.render([{"role": "user", "content": "Hi"}]).text


def conversation(**fields: Any) -> list[dict[str, Any]]:
    function = {"name": "get_weather", "arguments": '{"city": "Paris", "days": 2}'}
    call = {"id": "call_0123456789abcdef01234567", "type": "function", "function": function}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call], **fields},
        {"role": "tool", "content": "18 degrees", "tool_call_id": "call_0123456789abcdef01234567"},
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_earlier_calls_are_rendered_as_the_model_wrote_them(templates: dict[str, ChatTemplate], name: str) -> None:
    text = templates[name].render(conversation(), tools=TOOLS).text
    assert FAMILIES[name].history in text
    assert "18 degrees" in text


@pytest.mark.parametrize("name", FAMILIES)
def test_text_beside_a_call_and_reasoning_are_not_refused(templates: dict[str, ChatTemplate], name: str) -> None:
    text = templates[name].render(conversation(content="Let me look.", reasoning_content="Hm."), tools=TOOLS).text
    assert FAMILIES[name].history in text
    assert "Let me look." in text or name in ("mistral", "llama31")  # they have no place for it


def test_ids_of_calls_fit_those_of_their_results(templates: dict[str, ChatTemplate]) -> None:
    text = templates["mistral"].render(conversation(), tools=TOOLS).text
    short_id = text.partition('"id": "')[2][:9]
    assert f'"call_id": "{short_id}"' in text


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("qwen3", "assistant\n", "<think>\n\n</think>\n\n"),
        ("deepseek_v31", "<think>", "</think>"),
        ("deepseek_v3", "<think>\n", "<think>\n\n</think>\n\n"),  # the template has no switch
        ("glm45", "<|assistant|>", "<think></think>"),
        ("gemma4", "<|turn>model\n", "<|channel>thought\n<channel|>"),
        ("minimax_m2", "<think>\n", "<think>\n\n</think>\n\n"),
        ("magistral", "[THINK]\n", "[THINK]\n\n[/THINK]\n\n"),
    ],
)
def test_thinking_is_switched(templates: dict[str, ChatTemplate], name: str, on: str, off: str) -> None:
    def render(**wish: Any) -> str:
        return templates[name].render([{"role": "user", "content": "Hi"}], reasoning=ReasoningWish(**wish)).text

    assert render(enable_thinking=True).endswith(on)
    assert render(enable_thinking=False).endswith(off)
    assert render(effort="none") == render(setting="off") == render(enable_thinking=False)
    assert render(setting="on") == render(enable_thinking=True)
    assert render(setting="off", enable_thinking=True) == render(enable_thinking=True)
    assert render(effort="medium") == render()
    with pytest.raises(RequestRejected) as rejection:
        render(effort="high")
    assert rejection.value.param == "reasoning_effort"


def test_variables_of_the_client_win_over_the_setting(templates: dict[str, ChatTemplate]) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    kwargs = {"enable_thinking": False}
    text = templates["qwen3"].render(chat, template_kwargs=kwargs, reasoning=ReasoningWish(setting="on")).text
    assert text.endswith("</think>\n\n")


def test_levels_reach_a_template_that_knows_them(templates: dict[str, ChatTemplate]) -> None:
    def render(**wish: Any) -> str:
        return templates["gpt_oss"].render([{"role": "user", "content": "Hi"}], reasoning=ReasoningWish(**wish)).text

    assert "Reasoning: medium" in render()
    assert "Reasoning: high" in render(effort="high")
    assert "Reasoning: low" in render(setting="off")  # it cannot be switched off
    assert render(enable_thinking=True) == render()
    for wish, field in (({"effort": "none"}, "reasoning_effort"), ({"enable_thinking": False}, "enable_thinking")):
        with pytest.raises(RequestRejected) as rejection:
            render(**wish)
        assert (rejection.value.code, rejection.value.param) == ("unsupported", field)


def test_model_that_does_not_reason_is_not_asked_to(templates: dict[str, ChatTemplate]) -> None:
    def render(**wish: Any) -> str:
        return templates["llama31"].render([{"role": "user", "content": "Hi"}], reasoning=ReasoningWish(**wish)).text

    assert render(enable_thinking=False) == render(setting="on") == render(setting="off") == render(effort="none")
    with pytest.raises(RequestRejected) as rejection:
        render(enable_thinking=True)
    assert rejection.value.param == "enable_thinking"
