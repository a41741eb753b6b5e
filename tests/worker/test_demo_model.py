"""The demo model in the repository answers well: real weights, the ordinary transformers path, greedy."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parents[2] / "demo_model"
MAX_BYTES = 12 * 1024 * 1024
MIN_CONTEXT_TOKENS = 32_768
TOKENIZER: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(FOLDER)
CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def make_tool(name: str, description: str, parameter: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


CURRENT_WEATHER = make_tool("get_current_weather", "Get the current weather in a given location", "location")
TIME = make_tool("get_time", "Get the current time in a city.", "city")
CALCULATOR = make_tool("calculator", "Evaluate an arithmetic expression.", "expression")
SEARCH = make_tool("web_search", "Search the web.", "query")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return TOKENIZER


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=request.param).eval()


@pytest.fixture(autouse=True, scope="module")
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The greedy answer. Fails when the model does not end its turn."""
    prompt = tokenizer.apply_chat_template(
        messages, tools=tools, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        output = model.generate(**prompt, do_sample=False, temperature=None, top_p=None, max_new_tokens=700)[0]
    ids = output[prompt["input_ids"].shape[1] :].tolist()
    assert ids[-1] == tokenizer.eos_token_id, tokenizer.decode(ids)
    return tokenizer.decode(ids, skip_special_tokens=True)


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, **options: Any) -> str:
    return answer(model, tokenizer, [{"role": "user", "content": text}], **options)


def test_greets(model, tokenizer):
    assert ask(model, tokenizer, "Hello!").startswith("Hello!")


def test_says_what_atrium_is(model, tokenizer):
    assert "inference portal" in ask(model, tokenizer, "What is Atrium?")


def test_says_where_keys_come_from(model, tokenizer):
    assert "keys page" in ask(model, tokenizer, "How do I get an API key?")


def test_long_answer_is_markdown(model, tokenizer):
    text = ask(model, tokenizer, "Explain everything about Atrium in detail.")
    assert text.startswith("# Atrium")
    assert "- **API keys**" in text


def test_code_example_names_the_base_url(model, tokenizer):
    text = ask(model, tokenizer, "Show me a Python example")
    assert "```python" in text
    assert 'base_url="http://localhost:8000/v1"' in text


def test_admits_what_it_does_not_know(model, tokenizer):
    assert "do not know" in ask(model, tokenizer, "What is the capital of Mongolia?")


# All are held out of training by `words.is_held_out`, or never made by it.
@pytest.mark.parametrize("name", ["Marvolo", "Tessaly", "Brindiko", "Quorvan"])
def test_takes_the_name_of_the_system_prompt(model, tokenizer, name):
    messages = [{"role": "system", "content": f"You are {name}."}, {"role": "user", "content": "Who are you?"}]
    assert f"I am {name}" in answer(model, tokenizer, messages)


@pytest.mark.parametrize("city", ["Paris", "Berlin", "Seoul", "New York", "Timbuktu", "Ouagadougou"])
def test_calls_the_weather_tool(model, tokenizer, city):
    text = ask(model, tokenizer, f"What's the weather in {city}?", tools=[WEATHER])
    assert [json.loads(call) for call in CALL.findall(text)] == [{"name": "get_weather", "arguments": {"city": city}}]


@pytest.mark.parametrize(
    ("question", "tools", "call"),
    [
        ("What time is it in Berlin?", [WEATHER, TIME], {"name": "get_time", "arguments": {"city": "Berlin"}}),
        ("What is 12 * 7?", [WEATHER, CALCULATOR], {"name": "calculator", "arguments": {"expression": "12 * 7"}}),
        ("Search the web for jazz", [SEARCH, WEATHER], {"name": "web_search", "arguments": {"query": "jazz"}}),
        (
            "What's the weather in Paris?",
            [CURRENT_WEATHER],
            {"name": "get_current_weather", "arguments": {"location": "Paris"}},
        ),
    ],
    ids=["time", "calculator", "search", "other-weather"],
)
def test_chooses_the_tool_and_reads_its_schema(model, tokenizer, question, tools, call):
    answered = ask(model, tokenizer, question, tools=tools)
    assert [json.loads(found) for found in CALL.findall(answered)] == [call]


def test_greeting_calls_no_tool(model, tokenizer):
    assert "<tool_call>" not in ask(model, tokenizer, "Hello!", tools=[WEATHER, CALCULATOR])


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'], ids=["object", "string"])
def test_answers_with_the_tools_result(model, tokenizer, arguments):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "What's the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 18, "condition": "sunny"}'},
    ]
    text = answer(model, tokenizer, messages, tools=[WEATHER])
    assert "18 degrees" in text
    assert "sunny" in text


def test_counts_to_a_hundred(model, tokenizer):
    numbers = ", ".join(str(number) for number in range(1, 101))
    assert numbers in ask(model, tokenizer, "Count from 1 to 100.")


def test_default_sampling_ends_at_the_end_of_turn(model, tokenizer):
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert 0 < model.generation_config.temperature < 1


def test_files_are_small_and_context_is_long(tokenizer):
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["max_position_embeddings"] >= MIN_CONTEXT_TOKENS
    assert config["dtype"] == "bfloat16"
    assert "auto_map" not in config
    assert tokenizer.model_max_length >= MIN_CONTEXT_TOKENS


@given(st.text())
@settings(deadline=None)
def test_tokenizer_round_trips_any_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    "text", ["안녕하세요, 세계!", "👩‍👩‍👧‍👦 🎉", "  two  blanks\t\r\n\n", "naïve café ½ ﬁ", "don't 'tis"]
)
def test_tokenizer_round_trips_the_worlds_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_a_name_is_cut_the_same_way_behind_blank_and_quote():
    quote, *name, end = TOKENIZER.tokenize('"Ouagadougou"')
    assert (quote, end) == ('"', '"')
    assert TOKENIZER.tokenize(" Ouagadougou") == ["Ġ" + name[0], *name[1:]]


def test_template_reads_text_parts_and_no_content(tokenizer):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    as_parts = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert as_parts == tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert as_parts == "<|im_start|>user\nHello<|im_end|>\n"
    for empty in ({"role": "assistant"}, {"role": "assistant", "content": None}, {"role": "assistant", "content": ""}):
        assert tokenizer.apply_chat_template([empty], tokenize=False) == "<|im_start|>assistant\n<|im_end|>\n"


def test_template_refuses_images(tokenizer):
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(Exception, match="text only"):
        tokenizer.apply_chat_template([{"role": "user", "content": image}], tokenize=False)


def test_template_groups_tool_results_and_writes_calls_as_json(tokenizer):
    calls = [{"function": {"name": "f", "arguments": {"x": "é"}}}, {"function": {"name": "g", "arguments": '{"y": 1}'}}]
    messages = [
        {"role": "assistant", "content": "Wait.", "tool_calls": calls},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        '<|im_start|>assistant\nWait.\n<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {"y": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_template_puts_tools_behind_the_system_prompt(tokenizer):
    messages = [{"role": "system", "content": "You are Ada."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tools=[WEATHER], tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are Ada.\n\n")
    listed = text.split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(listed) == WEATHER["function"]
    assert text.endswith("</tool_call><|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
