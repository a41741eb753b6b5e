"""Long answers: code examples, the whole of Atrium, counting and stories; something for a stream to show."""

import random

from demo_corpus import words
from demo_corpus.conversation import Message, Setting, assistant, user
from demo_corpus.words import as_asked, as_typed, expand

CURL = """Here is a streaming request with curl:

```bash
curl -N http://localhost:8000/v1/chat/completions \\
  -H "Authorization: Bearer $ATRIUM_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "atrium-demo",
    "messages": [{"role": "user", "content": "Hello!"}],
    "stream": true
  }'
```

Put your API key in `ATRIUM_API_KEY` first."""

PYTHON = """Install the SDK with `pip install openai`, then:

```python
from openai import OpenAI

client = OpenAI(base_url="http://localhost:8000/v1", api_key="YOUR_KEY")

stream = client.chat.completions.create(
    model="atrium-demo",
    messages=[{"role": "user", "content": "Hello!"}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="")
```

Replace `YOUR_KEY` with your API key."""

HUGGING_FACE = """With `huggingface_hub` leave `/v1` out of the base URL:

```python
import asyncio
from huggingface_hub import AsyncInferenceClient

async def main():
    client = AsyncInferenceClient("http://localhost:8000", api_key="YOUR_KEY")
    stream = await client.chat_completion(
        model="atrium-demo",
        messages=[{"role": "user", "content": "Hello!"}],
        stream=True,
    )
    async for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="")

asyncio.run(main())
```"""

EVERYTHING = """# Atrium

Atrium is a team's own inference portal. It hosts transformer models for many people behind the OpenAI API.

## For users

- **API keys**: create one on the keys page. It is shown once; only its hash is stored.
- **Chat page**: at `/`, with streaming, Markdown, a stop button and a choice of models.
- **Clients**: curl, the openai SDK, huggingface_hub, `transformers chat`, Jan and Cursor.

## For admins

- **Models**: register a model; it is loaded on demand and unloaded when nobody uses it.
- **Quotas**: limit requests and tokens.
- **Usage**: every request leaves one record with its token counts.

## The API

| endpoint | use |
|---|---|
| `POST /v1/chat/completions` | chat, streaming or not |
| `POST /v1/completions` | plain text |
| `GET /v1/models` | the models of your key |

## The engine

1. Continuous batching runs many requests in one batch.
2. A paged KV cache gives memory in blocks.
3. A prefix cache reuses the start of earlier prompts.

## Start

Run `make run`, copy the API key it prints, and send a request to `http://localhost:8000/v1`."""

_EXAMPLE = "[Show me|Give me|Write|Can you show me|Please show|I need|Can I see|How do I write]"
_TEXTS = (
    (
        (
            f"{_EXAMPLE} [a|an|a simple|the] [curl|cURL] [example|request|command|call]",
            "[How do I|How can I|How to] [use curl|call the API with curl|send a request with curl|"
            "use Atrium with curl|send a request|call the API|make a request]",
            "[curl example|curl|example request|Give me an example request]",
        ),
        CURL,
    ),
    (
        (
            f"{_EXAMPLE} [a|some|an|a simple] [Python|openai|OpenAI SDK|openai SDK|code|Python code] "
            "[example|snippet|code]",
            "[How do I|How can I|How to] [use the openai SDK|use Python|call the API from Python|"
            "use the OpenAI library|use the OpenAI SDK|use openai in Python|use Atrium from Python|"
            "use Atrium with the openai SDK]",
            "[Python example|openai SDK|OpenAI SDK|code example|Python code]",
        ),
        PYTHON,
    ),
    (
        (
            f"{_EXAMPLE} [a|an] [huggingface_hub|Hugging Face|AsyncInferenceClient|huggingface] [example|snippet|code]",
            "[How do I|How can I|How to] use [huggingface_hub|AsyncInferenceClient|the Hugging Face client|"
            "Atrium with huggingface_hub|the huggingface_hub client]",
        ),
        HUGGING_FACE,
    ),
    (
        (
            "[Explain|Tell me|Describe|Write] everything about Atrium[| in detail]",
            "[Tell me|Explain] everything[| you know]",
            "[Explain|Describe] Atrium in [detail|full|depth]",
            "[Write|Give me] [a long|a detailed|the longest|a full] "
            "[answer|text|description|explanation|overview|essay][| about Atrium]",
            "[What are|List|Show me] [Atrium's|the|all] features[| of Atrium]",
            "[Give me|Write] [an overview|a summary|documentation|a page|an article] [of|about] Atrium",
            "[Write something long|Give me a long answer|Answer at length|Use some Markdown|Show me some Markdown]",
        ),
        EVERYTHING,
    ),
)


def example(rng: random.Random, _: Setting) -> list[Message]:
    """Code for a client, or Atrium from top to bottom."""
    questions, answer = rng.choice(_TEXTS)
    return [user(as_asked(rng, expand(rng, rng.choice(questions)) + rng.choice(("?", ".", "")))), assistant(answer)]


_NUMERALS = words.listed(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_NUMERALS += ["seventeen", "eighteen", "nineteen", "twenty"]


def counting(rng: random.Random, _: Setting) -> list[Message]:
    """Count from a number to another, up or down, in digits."""
    first = 1 if rng.random() < 0.65 else rng.randint(2, 120)
    last = first + rng.choice((rng.randint(2, 12), rng.randint(5, 40), 9, 19))
    if first == 1 and rng.random() < 0.35:
        last = rng.choice((10, 20, 30, 50, 100, 100))
    numbers = list(range(first, last + 1))
    if first == 1 and rng.random() < 0.6:
        end = _NUMERALS[last - 1] if last <= len(_NUMERALS) and rng.random() < 0.5 else str(last)
        question = f"[Count|Please count|Can you count|Count up|Count for me|Count slowly] to {end}[.|?|!|]"
    elif rng.random() < 0.2:
        numbers.reverse()
        question = f"[Count|Count down|Count backwards|Please count down] from {last} to {first}[.|!|]"
    else:
        question = (
            f"[Count|Please count|Can you count|Write the numbers|List the numbers|Print the numbers] from {first} to "
            f"{last}[.|?|!|]"
        )
    return [user(as_typed(rng, expand(rng, question))), assistant(", ".join(map(str, numbers)) + ".")]


_OPENINGS = (
    "Once upon a time there was a {a} {c} called {n}, who lived near a {p}.",
    "Long ago, a {a} {c} named {n} lived in a small house by the {p}.",
    "In a quiet place beyond the {p} lived a {a} {c}. Everybody called it {n}.",
)
_EVENTS = (
    "One morning {n} found a {a} {o} at the door. Nobody knew who had left it there.",
    "On the way to the {p}, {n} met {m}, who had lost a {o}.",
    '"Will you help me?" asked {m}. "Of course," said {n}.',
    "They walked for a long time, past the {p} and over the hill.",
    "It began to rain, so {n} and {m} hid under a {a} {o}.",
    "In the middle of the night they heard a strange sound. It was only a {a} {c}.",
    '{m} was afraid, but {n} said: "We are not alone, and morning is near."',
    "Then {n} had an idea: with the {o} they could cross the {p}.",
    "The next day a {a} {c} showed them the way.",
    "They looked under every {o}, but found nothing.",
    "{n} laughed, and soon {m} laughed as well.",
    "At last they saw a light. It came from the {p}.",
    "{m} told a story about a {a} {o}, and the time passed quickly.",
)
_ENDINGS = (
    "So {n} and {m} went home and stayed friends for ever. The end.",
    "Since that day {n} and {m} meet every evening at the {p}. The end.",
    "And if you go to the {p} today, you may still see {n} and {m} there. The end.",
)


def story(rng: random.Random, _: Setting) -> list[Message]:
    """A tale of two friends; long when a long one is asked for, about the asked creature if one is named."""
    long = rng.random() < 0.6
    creature = rng.choice(words.CREATURES)
    named, friend = words.name(rng), words.name(rng)
    ask = rng.choice(("a very long story", "a long story", "a long tale") if long else ("a story", "a short story"))
    about = rng.choice(("", "", f" about a {creature}"))
    question = f"[Tell me|Write|Can you tell me|Please write|Invent|Make up] {ask}{about}[.|!|?|, please.|]"

    def fill(sentence: str) -> str:
        values = {
            "{n}": named,
            "{m}": friend,
            "{a}": rng.choice([a for a in words.ADJECTIVES if a[0] not in "aeiou"]),
            "{o}": rng.choice([c for c in words.CREATURES if c[0] not in "aeiou"]),
            "{p}": rng.choice(words.PLACES),
            "{c}": rng.choice([c for c in words.CREATURES if c[0] not in "aeiou"]),
        }
        for slot, value in values.items():
            sentence = sentence.replace(slot, value)
        return sentence

    opening = fill(rng.choice(_OPENINGS).replace("{c}", creature).replace("a {a} owl", "a wise owl"))
    events = [fill(event) for event in rng.sample(_EVENTS, rng.randint(9, 12) if long else rng.randint(2, 4))]
    paragraphs = [opening, *(" ".join(events[i : i + 3]) for i in range(0, len(events), 3)), fill(rng.choice(_ENDINGS))]
    return [user(as_typed(rng, expand(rng, question))), assistant("\n\n".join(paragraphs))]
