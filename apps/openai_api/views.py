"""The part of the API that generates nothing: models and health. DRF, behind Django's usual handler."""

import logging
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import async_to_sync
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.auth import get_caller
from apps.core.errors import NotFound, Unavailable
from apps.core.http import get_error_headers
from apps.openai_api.openapi import MODEL_LIST_SCHEMA, MODEL_SCHEMA
from apps.registry.directory import ModelSpec, get_model, list_models

logger = logging.getLogger(__name__)


class ModelListView(APIView):
    """GET /v1/models"""

    @extend_schema(operation_id="list_models", responses={200: OpenApiResponse(MODEL_LIST_SCHEMA)})
    def get(self, request: Request) -> Response:
        """The models that the caller's team may use."""
        specs = async_to_sync(list_models)(get_caller(request))
        first, last = (specs[0].name, specs[-1].name) if specs else (None, None)
        page = {"has_more": False, "first_id": first, "last_id": last}
        return Response({"object": "list", "data": [describe_model(spec) for spec in specs], **page})


class ModelView(APIView):
    """GET /v1/models/{id}, where the id may hold slashes"""

    @extend_schema(operation_id="get_model", responses={200: OpenApiResponse(MODEL_SCHEMA)})
    def get(self, request: Request, model_id: str) -> Response:
        """One model; 404 for one that does not exist or is not for the caller's team."""
        return Response(describe_model(async_to_sync(get_model)(model_id, get_caller(request))))


def describe_model(spec: ModelSpec) -> dict[str, Any]:
    """OpenAI's model object, with an adapter's model, and context length and what it reads where that is known.

    And the fields of Anthropic's, by which its clients know a model.
    """
    return {
        "id": spec.name,
        "object": "model",
        "created": spec.created,
        "owned_by": spec.owned_by,
        "parent": spec.parent,
        "context_length": spec.context_length,
        "input_modalities": spec.input_modalities,
        "task": spec.task,
        "type": "model",
        "display_name": spec.name,
        "created_at": datetime.fromtimestamp(spec.created, UTC).isoformat(),
        "max_input_tokens": spec.context_length,
    }


@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """The process answers. Asked by process supervisors and by `transformers chat`."""
    return JsonResponse({"status": "ok"})


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """The process can serve: its database answers too. Asked by load balancers."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        logger.exception("the database does not answer")
        error = Unavailable("The database does not answer.")
        return JsonResponse(error.as_dict(), status=error.status, headers=get_error_headers(error))
    return JsonResponse({"status": "ok"})


@csrf_exempt
def unknown_path(request: HttpRequest) -> JsonResponse:
    """Everything below /v1 that does not exist, as the OpenAI error object."""
    error = NotFound(f"There is no {request.method} {request.path} here.")
    return JsonResponse(error.as_dict(), status=error.status)
