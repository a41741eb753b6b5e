"""The endpoints of docs/api-fields.md: whose fields each is asked with, and the classes that this server has of them.

OpenAI's and Anthropic's fields are those of the request types of their Python SDKs; where neither has the endpoint,
the fields are the ones that our own schemas speak of. Queries that count are those of the OpenAPI document.
"""

import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

HONOURED, ACCEPTED, REFUSED = "honoured", "accepted", "refused"


class Endpoint(NamedTuple):
    """One endpoint: the fields it may be asked with, and our classes of them, in the order in which they count."""

    fields: frozenset[str]
    honoured: frozenset[str]
    neutral: Mapping[str, tuple[Any, ...]]
    bookkeeping: Mapping[str, str]

    def classify(self, field: str) -> str:
        """Raises KeyError for a field that nobody has decided on."""
        if field in self.honoured:
            return HONOURED
        if field in self.neutral:
            return REFUSED
        if field in self.bookkeeping:
            return ACCEPTED
        raise KeyError(f"the field '{field}' is in no class: see apps/openai_api/parameters.py")


class Table(NamedTuple):
    """One table of the page. `endpoints` by what they are called there."""

    title: str
    about: str
    endpoints: dict[str, Endpoint]


def list_tables() -> list[Table]:
    """In the order of the page."""
    return [
        Table("OpenAI: answers", "Fields of the body, or of the form.", _list_answers()),
        Table("OpenAI: what is stored", "Fields of the body, or of the form.", _list_stored()),
        Table(
            "OpenAI: queries",
            "Fields of the query. One that is in no row is ignored there, as by OpenAI.",
            _list_queries(),
        ),
        Table("Anthropic", "Fields of the body.", _list_messages()),
        Table(
            "Other servers",
            "Rerank is Cohere's and Jina's, `/load_model` that of transformers serve, the others are vLLM's.",
            _list_others(),
        ),
    ]


def list_endpoints() -> dict[str, Endpoint]:
    """All of them."""
    return {name: endpoint for table in list_tables() for name, endpoint in table.endpoints.items()}


def _list_answers() -> dict[str, Endpoint]:
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.audio import transcription_create_params, translation_create_params
    from openai.types.chat import completion_create_params as chat_create_params
    from openai.types.responses import response_create_params

    from apps.openai_api import parameters
    from apps.openai_api.schemas import chat, completions, embeddings, responses, transcriptions

    return {
        "/v1/chat/completions": _make(
            chat_create_params.CompletionCreateParamsStreaming, chat.HONOURED, parameters.CHAT_NEUTRAL
        ),
        "/v1/completions": _make(
            completion_create_params.CompletionCreateParamsStreaming,
            completions.HONOURED,
            parameters.COMPLETION_NEUTRAL,
        ),
        "/v1/responses": _make(
            response_create_params.ResponseCreateParamsStreaming, responses.HONOURED, parameters.RESPONSES_NEUTRAL
        ),
        "/v1/embeddings": _make(
            embedding_create_params.EmbeddingCreateParams, embeddings.HONOURED, parameters.EMBEDDING_NEUTRAL
        ),
        "/v1/audio/transcriptions": _make(
            transcription_create_params.TranscriptionCreateParamsStreaming,
            transcriptions.HONOURED,
            transcriptions.NEUTRAL,
        ),
        "/v1/audio/translations": _make(
            translation_create_params.TranslationCreateParams,
            transcriptions.TRANSLATION_HONOURED,
            transcriptions.NEUTRAL,
        ),
    }


def _list_stored() -> dict[str, Endpoint]:
    from openai.types import batch_create_params, file_create_params
    from openai.types.conversations import conversation_create_params, conversation_update_params, item_create_params

    from apps.batches import schemas as batches
    from apps.openai_api import file_uploads
    from apps.openai_api.schemas import conversations

    return {
        "/v1/files": _make(file_create_params.FileCreateParams, file_uploads.HONOURED, bookkeeping={}),
        "/v1/batches": _make(batch_create_params.BatchCreateParams, batches.HONOURED, bookkeeping={}),
        "/v1/conversations": _make(conversation_create_params.ConversationCreateParams, conversations.NEW_HONOURED),
        "/v1/conversations/{id}": _make(
            conversation_update_params.ConversationUpdateParams, conversations.CHANGED_HONOURED
        ),
        "/v1/conversations/{id}/items": _make(
            item_create_params.ItemCreateParams,
            conversations.ITEMS_HONOURED,
            without={"include"},  # of the query
        ),
    }


def _list_queries() -> dict[str, Endpoint]:
    from drf_spectacular.generators import SchemaGenerator
    from openai.types import batch_list_params, file_list_params
    from openai.types.conversations import item_create_params, item_list_params, item_retrieve_params
    from openai.types.responses import input_item_list_params, response_retrieve_params

    from apps.openai_api.parameters import QUERY_BOOKKEEPING

    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    asked = {
        "GET /v1/files": (file_list_params.FileListParams, "/v1/files"),
        "GET /v1/batches": (batch_list_params.BatchListParams, "/v1/batches"),
        "GET /v1/responses/{id}": (
            response_retrieve_params.ResponseRetrieveParamsStreaming,
            "/v1/responses/{response_id}",
        ),
        "GET /v1/responses/{id}/input_items": (
            input_item_list_params.InputItemListParams,
            "/v1/responses/{response_id}/input_items",
        ),
        "GET /v1/conversations/{id}/items": (
            item_list_params.ItemListParams,
            "/v1/conversations/{conversation_id}/items",
        ),
        "GET /v1/conversations/{id}/items/{id}": (
            item_retrieve_params.ItemRetrieveParams,
            "/v1/conversations/{conversation_id}/items/{item_id}",
        ),
        "POST /v1/conversations/{id}/items": (
            item_create_params.ItemCreateParams,
            "/v1/conversations/{conversation_id}/items",
        ),
    }
    endpoints = {}
    for name, (params, path) in asked.items():
        given = paths[path][name.partition(" ")[0].lower()].get("parameters", [])
        honoured = frozenset(field["name"] for field in given if field["in"] == "query")
        endpoints[name] = _make(params, honoured, bookkeeping=QUERY_BOOKKEEPING, without={"conversation_id", "items"})
    return endpoints


def _list_messages() -> dict[str, Endpoint]:
    from anthropic.types.beta import message_count_tokens_params, message_create_params

    from apps.anthropic_api.parameters import BOOKKEEPING, NEUTRAL, UNCOUNTED
    from apps.anthropic_api.schemas import body

    headers = {"betas", "user_profile_id", "workspace_id"}
    return {
        "/v1/messages": _make(
            message_create_params.MessageCreateParamsStreaming, body.HONOURED, NEUTRAL, BOOKKEEPING, without=headers
        ),
        "/v1/messages/count_tokens": _make(
            message_count_tokens_params.MessageCountTokensParams,
            body.COUNT_HONOURED,
            NEUTRAL,
            BOOKKEEPING | UNCOUNTED,
            without=headers,
        ),
    }


def _list_others() -> dict[str, Endpoint]:
    from apps.openai_api.parameters import BOOKKEEPING, RANKING_NEUTRAL
    from apps.openai_api.schemas import load, ranking, tokenize

    asked: dict[str, tuple[frozenset[str], Mapping[str, tuple[Any, ...]]]] = {
        "/v1/rerank": (ranking.RERANK_HONOURED, RANKING_NEUTRAL),
        "/v1/score": (ranking.SCORE_HONOURED, RANKING_NEUTRAL),
        "/v1/tokenize": (tokenize.HONOURED, tokenize.NEUTRAL),
        "/v1/detokenize": (tokenize.DETOKENIZE_HONOURED, {}),
        "/load_model": (load.HONOURED, {}),
    }
    return {
        path: Endpoint(honoured | neutral.keys(), honoured, neutral, BOOKKEEPING)
        for path, (honoured, neutral) in asked.items()
    }


def _make(
    params: type,
    honoured: frozenset[str],
    neutral: Mapping[str, tuple[Any, ...]] | None = None,
    bookkeeping: Mapping[str, str] | None = None,
    *,
    without: typing.Collection[str] = (),
) -> Endpoint:
    """Of a request type of an SDK, `without` what travels elsewhere."""
    from apps.openai_api.parameters import BOOKKEEPING

    fields = frozenset(typing.get_type_hints(params)) - frozenset(without)
    return Endpoint(fields, honoured, neutral or {}, BOOKKEEPING if bookkeeping is None else bookkeeping)
