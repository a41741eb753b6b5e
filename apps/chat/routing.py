"""The chat page's WebSocket path."""

from django.urls import path

from apps.chat.consumer import ChatConsumer

websocket_urlpatterns = [path("ws/chat/", ChatConsumer.as_asgi())]
