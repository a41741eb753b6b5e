"""Settings, URL routing and the ASGI and Celery applications: nothing of the product itself."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
