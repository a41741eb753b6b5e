"""Paths of the pages beside the chat."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from apps.portal import views

urlpatterns = [
    path("login", LoginView.as_view(template_name="portal/login.html", redirect_authenticated_user=True), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("keys", views.show_keys, name="keys"),
    path("keys/<int:key_id>/revoke", views.revoke, name="revoke_key"),
    path("i18n/", include("django.conf.urls.i18n")),
]
