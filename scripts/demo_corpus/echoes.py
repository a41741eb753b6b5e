"""Repeat-after-me in many forms: the exercise from which the model learns to copy what it has read."""

import random

from demo_corpus import words
from demo_corpus.conversation import Message, Setting, assistant, user
from demo_corpus.words import expand


def echo(rng: random.Random, _: Setting) -> list[Message]:
    """The answer is the given text and nothing else."""
    text = rng.choice((words.phrase, words.phrase, _sentence, _one_word))(rng)
    ask = expand(
        rng,
        "[Repeat after me:|Repeat:|Say:|Please say:|Echo:|Write:|Please repeat:|Repeat this:|Copy this text:|"
        "Answer with:|Reply with:|Say exactly:|Reply only with:|Answer with exactly:|Please write:|Print:|Output:|"
        "Reply with the words:|Answer only with:|Say|Repeat|Say the word|Say the words|Reply with|Repeat after me]",
    )
    quote = rng.choice(("", "", "", '"', "'", "`"))
    return [user(f"{ask} {quote}{text}{quote}"), assistant(text)]


def _one_word(rng: random.Random) -> str:
    return rng.choice((words.noun(rng), words.invented_word(rng), words.code(rng), words.noun(rng).upper()))


def _sentence(rng: random.Random) -> str:
    verb, end = rng.choice(("saw", "has", "likes", "paints", "met")), rng.choice(("", "."))
    return f"{words.name(rng)} {verb} {words.picture(rng)}{end}"


def drill(rng: random.Random, _: Setting) -> list[Message]:
    """A long echo: many tokens to copy, none of which can be guessed."""
    text = words.phrase(rng, 4, 24)
    return [user(f"{rng.choice(('Repeat', 'Say', 'Copy', 'Repeat after me'))}: {text}"), assistant(text)]


def remembered(rng: random.Random, _: Setting) -> list[Message]:
    """A value is told, and asked for later."""
    thing = rng.choice(("code", "password", "favourite city", "dog", "cat", "number", "secret word", "colour", "room"))
    value = {
        "favourite city": words.city,
        "dog": words.name,
        "cat": words.name,
        "number": words.number,
        "room": words.number,
    }.get(thing, rng.choice((words.code, words.noun, words.invented_word)))(rng)
    told = expand(
        rng, f"[Remember: |Remember this: |Please remember: |Note: |]my {thing} is [called |]{value}[.|!|]"
    )  # fmt: skip
    asked = expand(rng, f"[What is|What's|Tell me|Do you remember] my {thing}[?|]")
    return [
        user(told),
        assistant(f"I will remember that your {thing} is {value}."),
        user(asked),
        assistant(f"Your {thing} is {value}."),
    ]
