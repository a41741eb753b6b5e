"""The counters of `metrics.py` as Prometheus reads them."""

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.accounts.auth import get_caller
from apps.core.errors import PermissionDenied


class MetricsView(APIView):
    """GET /metrics, for administrators, or for everybody where METRICS_PUBLIC says so."""

    def get_authenticators(self) -> list[BaseAuthentication]:
        """None for the public: a scraper that sends some other service's key is not refused."""
        return [] if settings.METRICS_PUBLIC else super().get_authenticators()

    def check_permissions(self, request: Request) -> None:
        """Raises PermissionDenied for everybody but administrators, AuthenticationFailed for nobody."""
        if not settings.METRICS_PUBLIC and not get_caller(request).is_admin:
            raise PermissionDenied("Metrics are for administrators.")

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """This process's counters; those of all web processes where they share METRICS_FOLDER."""
        registry = REGISTRY
        if settings.METRICS_FOLDER:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
