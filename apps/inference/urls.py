"""What inference shows of itself."""

from django.urls import URLPattern, path

from apps.inference.views import MetricsView

urlpatterns: list[URLPattern] = [path("metrics", MetricsView.as_view(), name="metrics")]
