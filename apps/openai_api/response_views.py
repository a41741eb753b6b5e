"""Stored responses: read, deleted, and what they answered. DRF, behind Django's usual handler."""

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.auth import get_caller
from apps.core.errors import InvalidRequest
from apps.openai_api.background_responses import cancel_response, read_response
from apps.openai_api.openapi import DELETED_SCHEMA, ITEM_LIST_SCHEMA, RESPONSE_SCHEMA
from apps.openai_api.pages import describe_paging, make_page, read_limit, read_order
from apps.openai_api.stored_responses import delete_response, list_input


class ResponseView(APIView):
    """/v1/responses/{id}"""

    @extend_schema(
        operation_id="get_response",
        parameters=[
            OpenApiParameter("stream", bool, description="events of a background response, as server-sent events"),
            OpenApiParameter("starting_after", int, description="with stream: only the events after this number"),
        ],
        responses={200: OpenApiResponse(RESPONSE_SCHEMA)},
    )
    def get(self, request: Request, response_id: str) -> HttpResponse:
        """The response as it stands; 404 for one that is another's, deleted, or no longer kept."""
        if "starting_after" in request.query_params:
            raise InvalidRequest("'starting_after' needs 'stream' to be true.", param="starting_after")
        stored = read_response(get_caller(request), response_id)
        return HttpResponse(stored.response, content_type="application/json")

    @extend_schema(operation_id="delete_response", responses={200: OpenApiResponse(DELETED_SCHEMA)})
    def delete(self, request: Request, response_id: str) -> Response:
        """Forget the response and its input."""
        delete_response(get_caller(request), response_id)
        return Response({"id": response_id, "object": "response", "deleted": True})


class CancelView(APIView):
    """POST /v1/responses/{id}/cancel"""

    @extend_schema(operation_id="cancel_response", request=None, responses={200: OpenApiResponse(RESPONSE_SCHEMA)})
    def post(self, request: Request, response_id: str) -> HttpResponse:
        """End a background response."""
        stored = cancel_response(get_caller(request), response_id)
        return HttpResponse(stored.response, content_type="application/json")


class InputItemsView(APIView):
    """GET /v1/responses/{id}/input_items"""

    @extend_schema(
        operation_id="list_input_items",
        parameters=[
            *describe_paging(),
            OpenApiParameter("order", str, enum=["asc", "desc"], default="desc"),
        ],
        responses={200: OpenApiResponse(ITEM_LIST_SCHEMA)},
    )
    def get(self, request: Request, response_id: str) -> Response:
        """What the response answered, the latest first: its input, and the conversation before it."""
        limit, is_descending = read_limit(request), read_order(request)
        items = list_input(get_caller(request), response_id)
        if is_descending:
            items.reverse()
        if after := request.query_params.get("after"):
            place = next((index for index, item in enumerate(items) if item["id"] == after), None)
            if place is None:
                raise InvalidRequest(f"'after': there is no item '{after}'.", param="after")
            items = items[place + 1 :]
        return Response(make_page(items[: limit + 1], limit))
