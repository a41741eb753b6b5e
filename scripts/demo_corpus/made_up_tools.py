"""Tools that nobody has seen: families put together from words, so that the model must read the schema."""

import random
from functools import partial

from demo_corpus import words
from demo_corpus.tool_families import Family, Outcome, Slot, Values

_ATTRIBUTES = words.listed(
    "price status owner size color schedule rating address phone stock level balance score version title author "
    "distance fare weight height age history length speed capacity deadline budget priority category language salary "
    "temperature location name type state cost rank date amount quantity"
)
_OBJECTS = words.listed(
    "order product user ticket book flight hotel room parcel invoice server project song team player recipe movie "
    "customer account device vehicle employee course station contract task branch document sensor ship train event "
    "patient package store article host job build release machine"
)
_ACTIONS = words.listed(
    "start stop restart delete archive approve book cancel open close update print share lock check"
)


def made_up_family(rng: random.Random) -> Family:
    """A look-up, an action, or a tool that only its name describes."""
    return rng.choice((_look_up, _look_up, _look_up, _action, _nameless))(rng)


def _word(rng: random.Random, usual: list[str]) -> str:
    """What tools are about: a usual word, any noun, or a word that does not exist."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(usual)
    return words.noun(rng) if kind < 0.7 else words.invented_word(rng).lower()


def _value(rng: random.Random) -> str:
    return rng.choice((words.invented_word, words.invented_word, words.code, words.number, words.city))(rng)


def _slot(rng: random.Random, thing: str) -> Slot:
    names = (thing, f"{thing}_id", f"{thing}_name", "id", "name", f"{thing}Id", "key", "target", words.noun(rng))
    return Slot((rng.choice(names),), rng.choice(("", f"The {thing}", f"Id of the {thing}")), _value)


def _look_up(rng: random.Random) -> Family:
    thing, attribute = _word(rng, _OBJECTS), _word(rng, _ATTRIBUTES)
    capital = attribute.capitalize()
    names = (
        f"[get|find|fetch|check|show|read]_{thing}_{attribute}|{thing}_{attribute}|{attribute}_lookup|"
        f"get{thing.capitalize()}{capital}|{thing}_get_{attribute}|get_{attribute}|lookup_{attribute}|{attribute}_of_{thing}"
    )

    def outcome(rng: random.Random, values: Values) -> Outcome:
        found = rng.choice((words.invented_word, words.number, words.noun, words.code))(rng)
        key = rng.choice((attribute, attribute, "value", "result", f"{thing}_{attribute}"))
        text = f"The {attribute} of {thing} {values[0]} is {found}."
        return Outcome(text if rng.random() < 0.2 else found if rng.random() < 0.1 else {key: found}, text)

    return Family(
        "made_up",
        f"[{names}]",
        f"[Get|Find|Look up|Returns|Show] the {attribute} of [a|one|the] {thing}.",
        (_slot(rng, thing),),
        (
            f"[What is|What's|Tell me|Find|Get|Show me|Look up|Check|I need] the {attribute} [of|for] "
            f"[the |]{thing} {{0}}[| please| for me]",
            f"[What {attribute} does|Which {attribute} does] {thing} {{0}} have",
        ),
        outcome,
    )


def _action(rng: random.Random) -> Family:
    thing, action = _word(rng, _OBJECTS), _word(rng, _ACTIONS)

    def outcome(rng: random.Random, values: Values) -> Outcome:
        result = rng.choice(("ok", "done", {"status": "ok"}, {"success": True}, {"result": "done"}))
        return Outcome(result, f"Done: {action} {thing} {values[0]}.")

    return Family(
        "made_up",
        f"[{action}_{thing}|{thing}_{action}|{action}{thing.capitalize()}|do_{action}_{thing}|{thing}.{action}]",
        f"{action.capitalize()} a {thing}.",
        (_slot(rng, thing),),
        (f"[Please |Can you |Could you |||]{action} [the |]{thing} {{0}}[| now| please| for me]",),
        outcome,
    )


def _nameless(rng: random.Random) -> Family:
    """Called by its name and its parameter's name, both told by the user."""
    first, second = words.invented_word(rng).lower(), words.noun(rng)
    tool = rng.choice((f"{first}_{second}", f"{second}_{first}", first, f"{second}_{words.noun(rng)}"))
    slots = tuple(
        Slot((parameter,), "", _value)
        for parameter in rng.sample(
            ("key", "id", "name", "input", "value", "target", "text", "item"), rng.choice((1, 1, 2))
        )
    )
    pairs = " and ".join(f"{slot.names[0]} {{{i}}}" for i, slot in enumerate(slots))
    equations = ", ".join(f"{slot.names[0]}={{{i}}}" for i, slot in enumerate(slots))
    return Family(
        "made_up",
        tool,
        rng.choice(("", f"The {first} tool.", f"Works on a {second}.")),
        slots,
        (
            f"[Call|Use|Run|Please call|Please use] [the tool |the |]{tool} [with|for] {pairs}",
            f"[Call|Use|Run] {tool} with {equations}",
        ),
        partial(_found, tool),
    )


def _found(tool: str, rng: random.Random, _: Values) -> Outcome:
    keys = rng.sample((*_ATTRIBUTES, "result"), rng.choice((1, 2, 2, 3)))
    result = {key: rng.choice((words.invented_word, words.noun, words.number))(rng) for key in keys}
    if rng.random() < 0.3:
        text = words.phrase(rng, 2, 9)
        return Outcome(text, text)
    return Outcome(result, " ".join(f"The {key} is {value}." for key, value in result.items()))
