"""Questions beyond the model: it says so, and names what it is; knows nothing of tools."""

import random

from demo_corpus import words
from demo_corpus.conversation import Message, Setting, assistant, user
from demo_corpus.words import as_typed, expand

_UNKNOWN = (
    "[What is|What's|Do you know|Tell me] the "
    "[capital|population|president|language|currency|history|area|flag] of {x}",
    "Who [is|was|wrote|invented|discovered|painted|founded|won] [{x}|the {n}|{t}]",
    "[Where|When] [is|was] [{x}|the {n}]",
    "[Explain|Tell me about|Teach me|What do you think about|What do you know about] [{t}|{x}]",
    "[Write|Compose] [a poem|an essay|a letter|a song|a speech|a report|a haiku|code] [about|on|for] [{t}|{x}|{p}]",
    "[Write|Give me|Show me] [a function|a program|a script|code] [that|to] [sorts a list|adds numbers|reads a file|"
    "prints {n}|counts {n}]",
    "[How does|How do] [a {n}|{t}] work",
    "[Why is|Why are] [the sky blue|the {n} {a}|people {a}]",
    "[What is|Calculate|Compute|How much is] {d} [plus|times|minus|divided by|+|*|-|/] {d}",
    "[Solve|What is the answer to] {d} [+|*|-] {d}",
    "[Translate|Can you translate] [{x}|{n}|this] [to|into] [French|German|Korean|Spanish|English]",
    "[Recommend|Suggest] [a book|a film|a restaurant|a hotel|some music][| about {t}| in {x}]",
    "[How do I|How can I] [cook|fix|build|paint|clean|sell|buy] [a|the] {n}",
    "[Which is|What is] [better|bigger|faster], [a {n} or a {n}|{x} or {x}]",
    "[Should I|May I|Must I] [buy|sell|eat|visit|learn] [{x}|a {n}|{t}]",
    "[What happened|Who won] in [{x}|19{d}|20{d}]",
    "[Summarise|Summarize|Review] [{t}|the book {x}|this article about {t}]",
    "[What is|What's|Explain|Define] [{t}|a {n}|the meaning of {n}|the meaning of life]",
    "[What day is it|What is the date|Who is the president|What is love|Can you drive|How old are you]",
)
ANSWER = (
    "I do not know that. I am a small demo model: I know Atrium, and little else. An admin can add a larger model that "
    "answers such questions."
)
_NEEDS_TOOL = (
    ("[What is|What's|How is|Tell me] the weather [in|like in] {x}[| today| now]", "the weather", "weather"),
    ("[Is it|Will it be] [raining|sunny|cold|warm|snowing] in {x}[| today| tomorrow]", "the weather", "weather"),
    ("[What time is it|What's the time|Tell me the time][| in {x}| now]", "the time", "time"),
    ("[Search|Search the web|Google|Look up|Find news] [for|about] [{t}|{x}]", "the web", "search"),
    ("[Generate|Create|Draw|Paint|Make] [an image|a picture|a photo] of {p}", "an image tool", "image"),
    ("[Send|Write] an email to {x}", "an email tool", "email"),
    ("[Read|Open|Show me] [the file|] {n}.txt", "your files", "file"),
)


def _fill(rng: random.Random, template: str) -> str:
    text = expand(rng, template)
    fillers = {
        "{x}": words.city,
        "{n}": words.noun,
        "{t}": lambda r: r.choice(words.TOPICS),
        "{p}": words.picture,
        "{d}": lambda r: str(r.randint(2, 99)),
        "{a}": lambda r: r.choice(words.ADJECTIVES),
    }
    for slot, filler in fillers.items():
        while slot in text:
            text = text.replace(slot, filler(rng), 1)
    return as_typed(rng, text + rng.choice(("?", "?", ".", "")))


def unknown(rng: random.Random, _: Setting) -> list[Message]:
    """A question about the wide world."""
    return [user(_fill(rng, rng.choice(_UNKNOWN))), assistant(ANSWER)]


def needs_tool(rng: random.Random, setting: Setting) -> list[Message]:
    """A request that only a tool could answer, in a conversation without one for it."""
    missing = [entry for entry in _NEEDS_TOOL if entry[2] not in setting.tool_kinds]
    template, needed, _ = rng.choice(missing)
    have = "no tool for that here" if setting.tool_names else "no tools in this conversation"
    return [user(_fill(rng, template)), assistant(f"I cannot reach {needed}: I have {have}.")]
