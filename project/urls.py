"""Django's URLs: everything that does not generate. The generating paths are routed in `asgi.py`."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("admin/", admin.site.urls),
    path("", include("apps.portal.urls")),
    path("", include("apps.chat.urls")),
    path("", include("apps.anthropic_api.urls")),
    path("", include("apps.batches.urls")),
    path("", include("apps.openai_api.urls")),
    path("", include("apps.inference.urls")),
]

handler400 = "apps.core.error_pages.bad_request"
handler403 = "apps.core.error_pages.permission_denied"
handler404 = "apps.core.error_pages.page_not_found"
handler500 = "apps.core.error_pages.server_error"
