"""The held-out evaluation: words, tools and phrasings that training never showed, answered greedily."""

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo_corpus import words
from demo_corpus.conversation import Conversation, tool_calls, tool_result, user

_MAX_NEW_TOKENS = 600
_CALL = re.compile(r"<tool_call>\n(.*?)\n</tool_call>", re.DOTALL)


class Case(NamedTuple):
    """One conversation and what its answer must satisfy."""

    group: str
    conversation: Conversation
    passes: Callable[[str], bool]


def parse_calls(answer: str) -> list[dict[str, Any]]:
    """The tool calls in an answer; [] when there are none or their JSON is broken."""
    try:
        return [json.loads(call) for call in _CALL.findall(answer)]
    except json.JSONDecodeError:
        return []


def function_tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """A tool in OpenAI's form; `parameters` are name=type."""
    properties = {parameter: {"type": kind} for parameter, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


_WEATHER_TOOLS = (
    function_tool("lookup_weather_now", "Get the weather of a city.", city="string"),
    function_tool("get_weather", "Current weather for a given place", location="string"),
    function_tool("city_weather", "The weather somewhere", municipality="string"),
)
_PRINTER = function_tool("get_printer_warranty", "Get the warranty of a printer.", printer="string")
_TELESCOPE = function_tool("telescope_lens", "Look up the lens of a telescope.", telescope_id="string")
_POLISH = function_tool("polish_statue", "Polish a statue.", statue="string")
_MADE_UP = (
    (_PRINTER, "printer", "What is the warranty of printer {}?"),
    (_TELESCOPE, "telescope_id", "Tell me the lens of the telescope {}."),
    (_POLISH, "statue", "Please polish statue {}"),
)


def _ask(text: str, *, system: str | None = None, tools: list[dict[str, Any]] | None = None) -> Conversation:
    before = [] if system is None else [{"role": "system", "content": system}]
    return Conversation([*before, user(text)], tools)


def _contains(*parts: str) -> Callable[[str], bool]:
    return lambda answer: all(part.lower() in answer.lower() for part in parts)


def _calls(name: str, arguments: dict[str, Any]) -> Callable[[str], bool]:
    return lambda answer: parse_calls(answer) == [{"name": name, "arguments": arguments}]


# Phrasings that no template makes.
_FACTS = (
    ("So what exactly is this Atrium thing?", ("inference portal",)),
    ("whats atrium", ("inference portal",)),
    ("where would I get myself a key for the API?", ("keys page",)),
    ("how can i make api keys", ("keys page",)),
    ("Someone saw my API key, how do I get rid of it?", ("revoke",)),
    ("Are the API keys saved in plain text?", ("hash",)),
    ("Can API keys expire at some point?", ("expiry",)),
    ("How would an admin install another model?", ("hosted models",)),
    ("which models does this server have?", ("/v1/models",)),
    ("What are quotas in Atrium?", ("429",)),
    ("Where is my token usage shown?", ("usage record",)),
    ("Could I use Cursor together with Atrium?", ("cursor",)),
    ("Which client programs can talk to Atrium?", ("curl", "openai")),
    ("Give me a curl example please", ("```bash", "curl -N")),
    ("How would I use the openai Python SDK?", ("```python", "base_url")),
    ("how does streaming work here?", ("data: [DONE]",)),
    ("Explain what continuous batching is", ("batch",)),
    ("What is a KV cache?", ("blocks",)),
    ("what's prefix caching?", ("prefix cache",)),
    ("How do I get the server running?", ("make run",)),
    ("Do I really need a GPU for this?", ("CPU",)),
    ("Tell me everything about Atrium please", ("## The engine", "make run")),
)
_REFUSED = (
    "What is the capital of Mongolia?",
    "Who wrote Hamlet?",
    "Write a poem about autumn leaves",
    "Explain photosynthesis to me.",
    "What is 37 * 12?",
    "Translate good night into Italian",
)


def cases(seed: int) -> Iterator[Case]:
    """All cases; the drawn words are held out of training."""
    rng = random.Random(seed)
    for greeting in ("Hello!", "hi", "Hey, good evening!", "Hello there :)", "Hi bot"):
        yield Case("greeting", _ask(greeting), _contains("Hello! I am the Atrium demo model"))
    for question, parts in _FACTS:
        yield Case("facts", _ask(question), _contains(*parts))
    for question in _REFUSED:
        yield Case("refusal", _ask(question), _contains("do not know"))
    for _ in range(20):
        name = words.name(rng, held_out=True)
        system = rng.choice(("You are {}.", "You are a helpful assistant named {}. Be brief.", "You are {}, a tailor."))
        question = rng.choice(("Who are you?", "What's your name?", "hello, who am I talking to?"))
        yield Case("persona", _ask(question, system=system.format(name)), _contains(f"I am {name}"))
    for _ in range(15):
        text = f"{words.name(rng, held_out=True)} {words.number(rng)} {words.picture(rng, held_out=True)}"
        yield Case("echo", _ask(f"Repeat after me: {text}"), lambda answer, text=text: answer == text)
    yield from _tool_cases(rng)
    for end, text in ((10, "Count to ten"), (20, "Count from 1 to 20."), (100, "Count from 1 to 100")):
        numbers = ", ".join(str(n) for n in range(1, end + 1))
        yield Case("counting", _ask(text), lambda answer, numbers=numbers: numbers in answer)
    for text in ("Tell me a long story", "Write a very long story about a dragon"):
        yield Case("long story", _ask(text), lambda answer: len(answer) > 600)


def _tool_cases(rng: random.Random) -> Iterator[Case]:
    for _ in range(20):
        tool, place = rng.choice(_WEATHER_TOOLS), words.city(rng, held_out=True)
        (parameter,) = tool["function"]["parameters"]["properties"]
        question = rng.choice(("What's the weather in {}?", "how is the weather in {} today", "Is it cold in {}?"))
        tools = [tool, *rng.sample([_PRINTER, _TELESCOPE, _POLISH], rng.randint(0, 2))]
        rng.shuffle(tools)
        asked = _ask(question.format(place), tools=tools)
        call = (tool["function"]["name"], {parameter: place})
        yield Case("weather call", asked, _calls(*call))
        degrees, sky = rng.randint(-9, 39), rng.choice(("sunny", "rainy", "foggy"))
        turns = [*asked.messages, tool_calls(call), tool_result({"temperature": degrees, "condition": sky})]
        yield Case("weather answer", Conversation(turns, tools), _contains(f"{degrees} degrees", sky, place))
    for tool, parameter, question in _MADE_UP * 5:
        value = words.name(rng, held_out=True)
        tools = [made_up[0] for made_up in _MADE_UP]
        rng.shuffle(tools)
        asked = _ask(question.format(value), tools=tools)
        yield Case("unseen tool", asked, _calls(tool["function"]["name"], {parameter: value}))
    for _ in range(6):
        picture = words.picture(rng, held_out=True)
        tool = function_tool("make_image", "Generate an image from a text.", prompt="string")
        asked = _ask(f"Generate an image of {picture}", tools=[tool, _PRINTER])
        yield Case("image call", asked, _calls("make_image", {"prompt": picture}))
    for greeting in ("Hello!", "hi there", "Thanks!", "Who are you?"):
        asked = _ask(greeting, tools=[_WEATHER_TOOLS[1], _PRINTER])
        yield Case("no call for talk", asked, lambda answer: "<tool_call>" not in answer)
    asked = _ask("What is the weather in Oslo?")
    yield Case("no tools", asked, _contains("no tools"))


def evaluate(folder: Path, seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    """Answer all cases greedily, print what failed and the share passed of each group; "ends its turn" is one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    passed: defaultdict[str, list[bool]] = defaultdict(list)
    for case in cases(seed):
        prompt = tokenizer.apply_chat_template(
            case.conversation.messages,
            tools=case.conversation.tools,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = model.generate(**prompt, do_sample=False, max_new_tokens=_MAX_NEW_TOKENS)[0]
        ids = output[prompt["input_ids"].shape[1] :].tolist()
        answer = tokenizer.decode(ids, skip_special_tokens=True)
        passed[case.group].append(case.passes(answer))
        passed["ends its turn"].append(ids[-1] == tokenizer.eos_token_id)
        if not passed[case.group][-1]:
            print(f"failed {case.group}: {case.conversation.messages[-1]['content']!r} -> {answer[:200]!r}")
    shares = {group: sum(results) / len(results) for group, results in passed.items()}
    for group, share in shares.items():
        print(f"{group:18} {share:6.1%} of {len(passed[group])}")
    return shares
