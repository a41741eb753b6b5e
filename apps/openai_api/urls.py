"""Which path is answered by what: `consumers` by plain ASGI, `urlpatterns` by Django.

Every path of the API is there with and without /v1: clients differ in what they take a base URL for.
"""

import re

from django.urls import URLPattern, path, re_path
from drf_spectacular.views import SpectacularJSONAPIView

from apps.core.middleware import ASGIApp, Scope
from apps.openai_api.audio_consumers import TranscriptionsConsumer, TranslationsConsumer
from apps.openai_api.consumers import ChatCompletionsConsumer, CompletionsConsumer, LoadModelConsumer
from apps.openai_api.conversation_views import (
    ConversationItemListView,
    ConversationItemView,
    ConversationListView,
    ConversationView,
)
from apps.openai_api.file_uploads import FileUploadConsumer
from apps.openai_api.file_views import FileContentView, FileListView, FileView
from apps.openai_api.pooling_consumers import EmbeddingsConsumer, RerankConsumer, ScoreConsumer
from apps.openai_api.response_views import CancelView, InputItemsView, ResponseView
from apps.openai_api.responses_consumer import ResponseEventsConsumer, ResponsesConsumer
from apps.openai_api.responses_socket import serve_responses
from apps.openai_api.schemas.event_query import asks_for_stream
from apps.openai_api.token_consumers import DetokenizeConsumer, TokenizeConsumer
from apps.openai_api.views import ModelListView, ModelView, health, ready, unknown_path

_chat: ASGIApp = ChatCompletionsConsumer.as_asgi()
_completions: ASGIApp = CompletionsConsumer.as_asgi()
_responses: ASGIApp = ResponsesConsumer.as_asgi()
_events: ASGIApp = ResponseEventsConsumer.as_asgi()
_embeddings: ASGIApp = EmbeddingsConsumer.as_asgi()
_rerank: ASGIApp = RerankConsumer.as_asgi()
_score: ASGIApp = ScoreConsumer.as_asgi()
_transcriptions: ASGIApp = TranscriptionsConsumer.as_asgi()
_translations: ASGIApp = TranslationsConsumer.as_asgi()
_tokenize: ASGIApp = TokenizeConsumer.as_asgi()
_detokenize: ASGIApp = DetokenizeConsumer.as_asgi()
_upload: ASGIApp = FileUploadConsumer.as_asgi()
_load_model: ASGIApp = LoadModelConsumer.as_asgi()

_RESPONSE = re.compile(r"(?:v1/)?responses/[^/]+")

sockets: dict[str, ASGIApp] = {"v1/responses": serve_responses, "responses": serve_responses}
consumers: dict[str, ASGIApp] = {
    "v1/chat/completions": _chat,
    "v1/completions": _completions,
    "chat/completions": _chat,
    "completions": _completions,
    "v1/responses": _responses,
    "responses": _responses,
    "v1/embeddings": _embeddings,
    "v1/rerank": _rerank,
    "v1/score": _score,
    "embeddings": _embeddings,
    "rerank": _rerank,
    "v2/rerank": _rerank,  # Cohere's own
    "score": _score,
    "v1/audio/transcriptions": _transcriptions,
    "v1/audio/translations": _translations,
    "audio/transcriptions": _transcriptions,
    "audio/translations": _translations,
    "tokenize": _tokenize,
    "v1/tokenize": _tokenize,
    "detokenize": _detokenize,
    "v1/detokenize": _detokenize,
    "load_model": _load_model,
    "v1/load_model": _load_model,
}

# The same paths by other methods are Django's.
posts: dict[str, ASGIApp] = {"v1/files": _upload, "files": _upload}


def find_consumer(path: str, scope: Scope) -> ASGIApp | None:
    """Who answers this path (without its first slash) in place of Django."""
    if (consumer := consumers.get(path)) is not None:
        return consumer
    if scope["method"] == "POST":
        return posts.get(path)
    is_get = scope["method"] == "GET" and scope["query_string"]
    return _events if is_get and asks_for_stream(scope["query_string"]) and _RESPONSE.fullmatch(path) else None


urlpatterns: list[URLPattern] = [
    path("v1/models", ModelListView.as_view(), name="models"),
    path("v1/models/<path:model_id>", ModelView.as_view(), name="model"),
    path("models", ModelListView.as_view(schema=None)),
    path("models/<path:model_id>", ModelView.as_view(schema=None)),
    path("v1/conversations", ConversationListView.as_view(), name="conversations"),
    path("v1/conversations/<str:conversation_id>", ConversationView.as_view(), name="conversation"),
    path("v1/conversations/<str:conversation_id>/items", ConversationItemListView.as_view(), name="conversation_items"),
    path(
        "v1/conversations/<str:conversation_id>/items/<str:item_id>",
        ConversationItemView.as_view(),
        name="conversation_item",
    ),
    path("conversations", ConversationListView.as_view(schema=None)),
    path("conversations/<str:conversation_id>", ConversationView.as_view(schema=None)),
    path("conversations/<str:conversation_id>/items", ConversationItemListView.as_view(schema=None)),
    path("conversations/<str:conversation_id>/items/<str:item_id>", ConversationItemView.as_view(schema=None)),
    path("v1/responses/<str:response_id>", ResponseView.as_view(), name="response"),
    path("v1/responses/<str:response_id>/input_items", InputItemsView.as_view(), name="input_items"),
    path("v1/responses/<str:response_id>/cancel", CancelView.as_view(), name="cancel_response"),
    path("responses/<str:response_id>", ResponseView.as_view(schema=None)),
    path("responses/<str:response_id>/input_items", InputItemsView.as_view(schema=None)),
    path("responses/<str:response_id>/cancel", CancelView.as_view(schema=None)),
    path("v1/files", FileListView.as_view(), name="files"),
    path("v1/files/<str:file_id>", FileView.as_view(), name="file"),
    path("v1/files/<str:file_id>/content", FileContentView.as_view(), name="file_content"),
    path("files", FileListView.as_view(schema=None)),
    path("files/<str:file_id>", FileView.as_view(schema=None)),
    path("files/<str:file_id>/content", FileContentView.as_view(schema=None)),
    path("health", health, name="health"),
    path("v1/health", health),
    path("ready", ready, name="ready"),
    path("schema", SpectacularJSONAPIView.as_view(authentication_classes=[], permission_classes=[]), name="schema"),
    re_path(r"^v1(?:/|$)", unknown_path),
]
