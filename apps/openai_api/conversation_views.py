"""/v1/conversations: DRF, behind Django's usual handler. Responses add to them elsewhere."""

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.auth import get_caller
from apps.core.ids import new_id
from apps.openai_api.conversations import (
    access_conversation,
    access_item,
    add_items,
    create_conversation,
    delete_conversation,
    describe,
    list_items,
    set_metadata,
)
from apps.openai_api.openapi import (
    CONVERSATION_CHANGED_SCHEMA,
    CONVERSATION_ITEMS_SCHEMA,
    CONVERSATION_NEW_SCHEMA,
    CONVERSATION_SCHEMA,
    DELETED_SCHEMA,
    ITEM_LIST_SCHEMA,
)
from apps.openai_api.pages import describe_paging, make_page, read_limit, read_order
from apps.openai_api.schemas.conversations import parse_conversation, parse_items, parse_metadata

_CONVERSATION = {200: OpenApiResponse(CONVERSATION_SCHEMA)}
_ITEM = {200: OpenApiResponse({"type": "object"})}
_PAGING = [*describe_paging(), OpenApiParameter("order", str, enum=["asc", "desc"], default="desc")]
_ITEMS = {200: OpenApiResponse(ITEM_LIST_SCHEMA)}


class ConversationListView(APIView):
    """/v1/conversations"""

    @extend_schema(
        operation_id="create_conversation",
        request={"application/json": CONVERSATION_NEW_SCHEMA},
        responses=_CONVERSATION,
    )
    def post(self, request: Request) -> Response:
        """A new conversation, with up to 20 items to begin with."""
        items, metadata = parse_conversation(request.body, new_id(""))
        return Response(describe(create_conversation(get_caller(request), items, metadata)))


class ConversationView(APIView):
    """/v1/conversations/{id}"""

    @extend_schema(operation_id="get_conversation", responses=_CONVERSATION)
    def get(self, request: Request, conversation_id: str) -> Response:
        """Its metadata; 404 for another's."""
        return Response(describe(access_conversation(get_caller(request), conversation_id)))

    @extend_schema(
        operation_id="update_conversation",
        request={"application/json": CONVERSATION_CHANGED_SCHEMA},
        responses=_CONVERSATION,
    )
    def post(self, request: Request, conversation_id: str) -> Response:
        """Replace its metadata."""
        metadata = parse_metadata(request.body)
        return Response(describe(set_metadata(get_caller(request), conversation_id, metadata)))

    @extend_schema(operation_id="delete_conversation", responses={200: OpenApiResponse(DELETED_SCHEMA)})
    def delete(self, request: Request, conversation_id: str) -> Response:
        """Forget it with its items."""
        delete_conversation(get_caller(request), conversation_id)
        return Response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


class ConversationItemListView(APIView):
    """/v1/conversations/{id}/items"""

    @extend_schema(operation_id="list_conversation_items", parameters=_PAGING, responses=_ITEMS)
    def get(self, request: Request, conversation_id: str) -> Response:
        """Its items, the latest first."""
        limit, after = read_limit(request), request.query_params.get("after")
        items = list_items(
            get_caller(request), conversation_id, after=after, limit=limit + 1, is_descending=read_order(request)
        )
        return Response(make_page(items, limit))

    @extend_schema(
        operation_id="create_conversation_items",
        request={"application/json": CONVERSATION_ITEMS_SCHEMA},
        responses=_ITEMS,
    )
    def post(self, request: Request, conversation_id: str) -> Response:
        """Append up to 20 items."""
        conversation = access_conversation(get_caller(request), conversation_id)
        items = add_items(conversation, parse_items(request.body, new_id("")))
        return Response(make_page(items, len(items)))


class ConversationItemView(APIView):
    """/v1/conversations/{id}/items/{id}"""

    @extend_schema(operation_id="get_conversation_item", responses=_ITEM)
    def get(self, request: Request, conversation_id: str, item_id: str) -> HttpResponse:
        """One item."""
        row = access_item(get_caller(request), conversation_id, item_id)
        return HttpResponse(row.item, content_type="application/json")

    @extend_schema(operation_id="delete_conversation_item", responses=_CONVERSATION)
    def delete(self, request: Request, conversation_id: str, item_id: str) -> Response:
        """Forget one item."""
        access_item(get_caller(request), conversation_id, item_id).delete()
        return Response(describe(access_conversation(get_caller(request), conversation_id)))
