"""The batches' paths, with and without /v1 as all of the API."""

from django.urls import URLPattern, path

from apps.batches.views import BatchCancelView, BatchListView, BatchView

urlpatterns: list[URLPattern] = [
    path("v1/batches", BatchListView.as_view(), name="batches"),
    path("v1/batches/<str:batch_id>", BatchView.as_view(), name="batch"),
    path("v1/batches/<str:batch_id>/cancel", BatchCancelView.as_view(), name="cancel_batch"),
    path("batches", BatchListView.as_view(schema=None)),
    path("batches/<str:batch_id>", BatchView.as_view(schema=None)),
    path("batches/<str:batch_id>/cancel", BatchCancelView.as_view(schema=None)),
]
