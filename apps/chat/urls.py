"""The chat page and what it changes without a stream."""

from django.urls import path

from apps.chat import views

app_name = "chat"
urlpatterns = [
    path("", views.show_chat, name="new"),
    path("c/<uuid:conversation_id>", views.show_chat, name="conversation"),
    path("c/<uuid:conversation_id>/rename", views.rename, name="rename"),
    path("c/<uuid:conversation_id>/delete", views.delete, name="delete"),
]
