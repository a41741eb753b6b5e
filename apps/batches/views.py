"""/v1/batches. DRF, behind Django's usual handler: nothing here runs a batch."""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.auth import get_caller
from apps.batches.openapi import BATCH_LIST_SCHEMA, BATCH_SCHEMA
from apps.batches.schemas import parse_batch
from apps.batches.services import access_batch, cancel_batch, create_batch, describe_batch, list_batches
from apps.openai_api.pages import describe_paging, make_page, read_limit, select_page


class BatchListView(APIView):
    """/v1/batches"""

    @extend_schema(
        operation_id="list_batches", parameters=describe_paging(), responses={200: OpenApiResponse(BATCH_LIST_SCHEMA)}
    )
    def get(self, request: Request) -> Response:
        """The caller's own batches, the latest first."""
        limit = read_limit(request)
        page = select_page(list_batches(get_caller(request)), request, limit=limit)
        return Response(make_page([describe_batch(batch) for batch in page], limit))

    @extend_schema(operation_id="create_batch", request=None, responses={200: OpenApiResponse(BATCH_SCHEMA)})
    def post(self, request: Request) -> Response:
        """Have every line of a file answered in the background."""
        return Response(describe_batch(create_batch(get_caller(request), parse_batch(request.body))))


class BatchView(APIView):
    """/v1/batches/{id}"""

    @extend_schema(operation_id="get_batch", responses={200: OpenApiResponse(BATCH_SCHEMA)})
    def get(self, request: Request, batch_id: str) -> Response:
        """The batch as it stands; 404 for one that is another's."""
        return Response(describe_batch(access_batch(get_caller(request), batch_id)))


class BatchCancelView(APIView):
    """POST /v1/batches/{id}/cancel"""

    @extend_schema(operation_id="cancel_batch", request=None, responses={200: OpenApiResponse(BATCH_SCHEMA)})
    def post(self, request: Request, batch_id: str) -> Response:
        """End the batch, with what was answered so far."""
        return Response(describe_batch(cancel_batch(access_batch(get_caller(request), batch_id))))
