"""System prompts: names and roles to follow, and the filler that real clients put around them."""

import random

from demo_corpus import words
from demo_corpus.words import expand

_FILLER = (
    "Answer [briefly|concisely|in short sentences|in a friendly tone|politely|clearly|in full sentences|in English].",
    "[Be|Stay] [polite|kind|brief|accurate|helpful|friendly|concise|professional].",
    "Think [step by step|carefully] before you answer.",
    "Do not make things up.",
    "If you do not know something, say so.",
    "Use Markdown [where it helps|when useful|for code].",
    "[Today is|The date is|Current date:] 202[5|6|7]-[01|04|07|11|12]-[03|09|15|21|28].",
    "The user works at {word}.",
    "You help [people|users|customers|engineers|developers|students|our team].",
    "Keep going until the request is done, then end your turn.",
    "Use the tools when they help, and do not guess.",
    "Never share private data.",
)
_NAMELESS = (
    "You are a [helpful|friendly|useful|kind|concise|smart] [assistant|AI assistant|chat assistant|bot].",
    "You are an assistant.",
    "You are an AI assistant that helps people find information.",
    "You are a helpful assistant with access to tools.",
    "You are an agent: plan, call tools, and answer.",
    "Help the user.",
    "You answer questions.",
    "You are a coding assistant in an editor.",
)
_NAMED = (
    "You are {name}.",
    "You are {name}.",
    "You are {name}, {role}.",
    "You are {name}, {role}.",
    "You are {name}, {role}.",
    "Your name is {name}.",
    "Your name is {name}. You are {role}.",
    "You are [a helpful|a friendly|an AI] assistant [named|called] {name}.",
    "You are {role} [named|called] {name}.",
    "Act as {name}, {role}.",
    "[The assistant is|The assistant's name is|From now on you are|You will play|Call yourself] {name}.",
)
_ROLES = (
    "[a|a|the] [helpful|friendly|polite|cheerful|patient|grumpy|wise|] [assistant|guide|librarian|teacher|tutor|robot|"
    "pirate|chef|gardener|travel agent|coach|engineer|doctor|butler|detective|poet|translator|concierge]",
    "[an assistant|the assistant|a support agent|the support assistant|a chatbot|the help desk|a guide|the voice] "
    "[of|for|at|from] {word}",
    "[a|the] [sales|support|help|cooking|travel|music|science|history|writing|study|booking] "
    "[assistant|bot|expert|helper|agent]",
)


def role(rng: random.Random) -> str:
    """What an assistant may be: "the support assistant of Kelmont"."""
    return " ".join(expand(rng, rng.choice(_ROLES)).replace("{word}", words.invented_word(rng)).split())


def nameless_prompt(rng: random.Random) -> str:
    """A system prompt that gives no name."""
    return _with_filler(rng, expand(rng, rng.choice(_NAMELESS)))


def named_prompt(rng: random.Random) -> tuple[str, str, str | None]:
    """A system prompt, the name in it, and the role in it if any."""
    name, its_role = words.name(rng), role(rng)
    template = rng.choice(_NAMED)
    prompt = expand(rng, template.replace("{name}", name).replace("{role}", its_role))
    return _with_filler(rng, prompt), name, its_role if "{role}" in template else None


def _with_filler(rng: random.Random, prompt: str) -> str:
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3, 5))):
        filler = expand(rng, rng.choice(_FILLER)).replace("{word}", words.invented_word(rng))
        prompt += rng.choice((" ", " ", "\n")) + filler
    return prompt
