"""The corpus: an endless stream of conversations, each kind with its share; the same for the same seed."""

import random
from collections.abc import Iterator

from demo_corpus import echoes, long_texts, personas, refusals, small_talk, tool_chats
from demo_corpus.atrium_facts import FACTS
from demo_corpus.atrium_inside import INSIDE_FACTS
from demo_corpus.conversation import Conversation, Exchange, Message, Setting, assistant, user
from demo_corpus.words import as_asked, expand

_ALL_FACTS = FACTS + INSIDE_FACTS


def atrium_fact(rng: random.Random, _: Setting) -> list[Message]:
    """A question about Atrium and its answer."""
    fact = rng.choice(_ALL_FACTS)
    question = expand(rng, rng.choice(fact.questions)) + rng.choice(("?", "?", "?", ".", ""))
    return [user(as_asked(rng, question)), assistant(fact.answer)]


_SHARES: dict[Exchange, float] = {
    atrium_fact: 28,
    echoes.echo: 10,
    echoes.remembered: 4,
    long_texts.counting: 4,
    long_texts.example: 4,
    long_texts.story: 3,
    refusals.needs_tool: 5,
    refusals.unknown: 12,
    small_talk.abilities: 5,
    small_talk.feelings: 4,
    small_talk.goodbye: 2,
    small_talk.greeting: 8,
    small_talk.identity: 8,
    small_talk.named_greeting: 4,
    small_talk.thanks: 3,
    small_talk.unknown_name: 1,
    small_talk.which_model: 4,
}


def plain_chat(rng: random.Random) -> Conversation:
    """A chat without tools: a system prompt or none, and one to six exchanges."""
    messages: list[Message] = []
    setting = Setting()
    kind = rng.random()
    if kind < 0.35:
        prompt, name, role = personas.named_prompt(rng)
        messages.append({"role": "system", "content": prompt})
        setting = Setting(name, role)
    elif kind < 0.6:
        messages.append({"role": "system", "content": personas.nameless_prompt(rng)})
    exchanges = list(_SHARES)
    weights = list(_SHARES.values())
    if setting.name is not None:
        weights[exchanges.index(small_talk.identity)] *= 6
    chosen = rng.choices(exchanges, weights, k=rng.choice((1, 1, 1, 2, 2, 3, 4, 6)))
    for exchange in chosen:
        if exchange is not small_talk.unknown_name or small_talk.named_greeting not in chosen:
            messages += exchange(rng, setting)
    return Conversation(messages)


def copying_drill(rng: random.Random) -> Conversation:
    """Nothing but echoes and remembered values: from these the model first learns to copy."""
    messages: list[Message] = []
    for _ in range(rng.randint(1, 2)):
        messages += rng.choice((echoes.drill, echoes.drill, echoes.echo, echoes.remembered))(rng, Setting())
    return Conversation(messages)


def conversations(seed: int, *, drill_share: float = 0.0, tool_share: float = 0.45) -> Iterator[Conversation]:
    """Conversations without end; `drill_share` of them are copying drills, `tool_share` of the others have tools."""
    rng = random.Random(seed)
    while True:
        if rng.random() < drill_share:
            yield copying_drill(rng)
        elif rng.random() < tool_share:
            yield tool_chats.tool_chat(rng)
        else:
            yield plain_chat(rng)
