"""Makes the JSON Schemas of request bodies whole: beside the honoured fields of their structs, the others' classes.

Fields without effect take anything, refused ones the values that ask for nothing, and there are no further fields.
"""

from collections.abc import Mapping
from typing import Any

from apps.openai_api import parameters

_NEUTRAL: dict[str, Mapping[str, tuple[Any, ...]]] = {
    "ChatBody": parameters.CHAT_NEUTRAL,
    "CompletionBody": parameters.COMPLETION_NEUTRAL,
    "ResponsesBody": parameters.RESPONSES_NEUTRAL,
    "EmbeddingBody": parameters.EMBEDDING_NEUTRAL,
    "RerankBody": parameters.RANKING_NEUTRAL,
    "ScoreBody": parameters.RANKING_NEUTRAL,
}


def complete_bodies(components: dict[str, Any]) -> None:
    """Adds the fields to the bodies among these components."""
    for name, neutral in _NEUTRAL.items():
        properties = components[name]["properties"]
        for field, reason in parameters.BOOKKEEPING.items():
            properties.setdefault(field, {"description": f"No effect: {reason}"})
        for field, values in neutral.items():
            description = "Not supported: it would change the answer"
            properties.setdefault(field, {"enum": [*_drop_equal(values), None], "description": description})
        components[name]["additionalProperties"] = False


def _drop_equal(values: tuple[Any, ...]) -> list[Any]:
    """In JSON 1 and 1.0 are one value."""
    return [value for index, value in enumerate(values) if not any(_is_same(value, other) for other in values[:index])]


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
