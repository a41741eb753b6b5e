"""Writes docs/api-fields.md: every request field of OpenAI's endpoints, and what this server does with it.

OpenAI's fields are those of the request types of its Python SDK, our classes those of `apps.openai_api`: a field that
is in neither class of ours ends the run, and the test that compares the page with the schemas.
Run `python -m scripts.api_fields` after a change of either.
"""

import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import django

PAGE = Path(__file__).parent.parent / "docs" / "api-fields.md"
HONOURED, ACCEPTED, REFUSED = "honoured", "accepted", "refused"
_HEAD = """# OpenAI's request fields

Written by `python -m scripts.api_fields` from the schemas and from the request types of openai-python {version}.
What each field does is in [api.md](api.md), with the fields of other servers, which are not listed here.

- **honoured**: it has its effect; a value that cannot have one is a 400 with the field as `param`;
- accepted: bookkeeping, without effect on the answer;
- refused: a 400 with the field as `param`, but for `null` and the values in brackets, which ask for nothing;
- empty: OpenAI has no such field there; where we have none either, it is a 400 with the code `unknown_parameter`.

"""


class Endpoint(NamedTuple):
    """One endpoint: OpenAI's fields, and our classes of them. In none of these: accepted, if it is bookkeeping."""

    openai_fields: frozenset[str]
    honoured: frozenset[str]
    neutral: Mapping[str, tuple[Any, ...]]

    def classify(self, field: str) -> str:
        """Raises KeyError for a field that nobody has decided on."""
        from apps.openai_api.parameters import BOOKKEEPING

        if field in self.honoured:
            return HONOURED
        if field in self.neutral:
            return REFUSED
        if field in BOOKKEEPING:
            return ACCEPTED
        raise KeyError(f"OpenAI's field '{field}' is in no class: see apps/openai_api/parameters.py")


def list_endpoints() -> dict[str, Endpoint]:
    """By path, in the order of the page."""
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.audio import transcription_create_params, translation_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    from apps.openai_api import parameters
    from apps.openai_api.schemas import chat, completions, embeddings, responses, transcriptions

    return {
        "/v1/chat/completions": Endpoint(
            _list_fields(chat_create_params.CompletionCreateParamsStreaming), chat.HONOURED, parameters.CHAT_NEUTRAL
        ),
        "/v1/completions": Endpoint(
            _list_fields(completion_create_params.CompletionCreateParamsStreaming),
            completions.HONOURED,
            parameters.COMPLETION_NEUTRAL,
        ),
        "/v1/responses": Endpoint(
            _list_fields(response_create_params.ResponseCreateParamsStreaming),
            responses.HONOURED,
            parameters.RESPONSES_NEUTRAL,
        ),
        "/v1/embeddings": Endpoint(
            _list_fields(embedding_create_params.EmbeddingCreateParams),
            embeddings.HONOURED,
            parameters.EMBEDDING_NEUTRAL,
        ),
        "/v1/audio/transcriptions": Endpoint(
            _list_fields(transcription_create_params.TranscriptionCreateParamsStreaming),
            transcriptions.HONOURED,
            transcriptions.NEUTRAL,
        ),
        "/v1/audio/translations": Endpoint(
            _list_fields(translation_create_params.TranslationCreateParams),
            transcriptions.TRANSLATION_HONOURED,
            transcriptions.NEUTRAL,
        ),
    }


def make_page() -> str:
    """The whole page. Raises KeyError for a field of OpenAI's that is in no class."""
    import openai

    endpoints = list_endpoints()
    fields = sorted({field for endpoint in endpoints.values() for field in endpoint.openai_fields})
    lines = [
        f"| field | {' | '.join(f'`{path}`' for path in endpoints)} |",
        "|---" * (len(endpoints) + 1) + "|",
    ]
    for field in fields:
        cells = [_make_cell(endpoint, field) for endpoint in endpoints.values()]
        lines.append(f"| `{field}` | {' | '.join(cells)} |")
    return _HEAD.format(version=openai.__version__) + "\n".join(lines) + "\n"


def _list_fields(params: type) -> frozenset[str]:
    return frozenset(typing.get_type_hints(params))


def _make_cell(endpoint: Endpoint, field: str) -> str:
    if field not in endpoint.openai_fields:
        return ""
    kind = endpoint.classify(field)
    if kind == HONOURED:
        return f"**{HONOURED}**"
    if kind == REFUSED and endpoint.neutral[field]:
        values = (f"`{json.dumps(value)}`" for value in endpoint.neutral[field])
        return f"{REFUSED} ({', '.join(values)})"
    return kind


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    django.setup()
    PAGE.write_text(make_page())
