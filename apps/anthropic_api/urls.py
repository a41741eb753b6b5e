"""Which path is answered by what, with and without /v1: `consumers` by plain ASGI, `urlpatterns` by Django."""

from django.urls import URLPattern, re_path

from apps.anthropic_api.consumers import CountTokensConsumer, MessagesConsumer
from apps.anthropic_api.views import unknown_path
from apps.core.middleware import ASGIApp

_messages: ASGIApp = MessagesConsumer.as_asgi()
_count_tokens: ASGIApp = CountTokensConsumer.as_asgi()

consumers: dict[str, ASGIApp] = {
    "v1/messages": _messages,
    "v1/messages/count_tokens": _count_tokens,
    "messages": _messages,
    "messages/count_tokens": _count_tokens,
}

urlpatterns: list[URLPattern] = [re_path(r"^(?:v1/)?messages/", unknown_path)]
