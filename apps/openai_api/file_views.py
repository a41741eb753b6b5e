"""Stored files: listed, described, downloaded, deleted. DRF, behind Django's usual handler."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from django.core.files.base import File
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.auth import get_caller
from apps.core.errors import InvalidRequest
from apps.files.models import Purpose
from apps.files.services import access_file, delete_file, describe_file, list_files, open_content
from apps.openai_api.openapi import DELETED_SCHEMA, FILE_LIST_SCHEMA, FILE_SCHEMA
from apps.openai_api.pages import describe_paging, make_page, read_limit, read_order, select_page

MAX_LIMIT = 10_000  # OpenAI's
_CHUNK_BYTES = 256 * 1024


class FileListView(APIView):
    """GET /v1/files"""

    @extend_schema(
        operation_id="list_files",
        parameters=[
            *describe_paging(MAX_LIMIT, MAX_LIMIT),
            OpenApiParameter("order", str, enum=["asc", "desc"], default="desc"),
            OpenApiParameter("purpose", str, enum=Purpose.values),
        ],
        responses={200: OpenApiResponse(FILE_LIST_SCHEMA)},
    )
    def get(self, request: Request) -> Response:
        """The caller's own files, the latest first."""
        limit = read_limit(request, MAX_LIMIT, MAX_LIMIT)
        files = list_files(get_caller(request))
        if purpose := request.query_params.get("purpose"):
            if purpose not in Purpose.values:
                raise InvalidRequest(f"'purpose' must be one of {', '.join(Purpose.values)}.", param="purpose")
            files = files.filter(purpose=purpose)
        page = select_page(files, request, limit=limit, is_descending=read_order(request))
        return Response(make_page([describe_file(file) for file in page], limit))


class FileView(APIView):
    """/v1/files/{id}"""

    @extend_schema(operation_id="get_file", responses={200: OpenApiResponse(FILE_SCHEMA)})
    def get(self, request: Request, file_id: str) -> Response:
        """What is known of the file; 404 for one that is another's, deleted or expired."""
        return Response(describe_file(access_file(get_caller(request), file_id)))

    @extend_schema(operation_id="delete_file", responses={200: OpenApiResponse(DELETED_SCHEMA)})
    def delete(self, request: Request, file_id: str) -> Response:
        """Delete the file; 409 while a batch reads it."""
        delete_file(access_file(get_caller(request), file_id))
        return Response({"id": file_id, "object": "file", "deleted": True})


class AnyAccept(BaseContentNegotiation):
    """A file is what it is, whatever `Accept` says; errors are JSON."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> tuple[Any, str]:
        """The only one."""
        return renderers[0], renderers[0].media_type


class FileContentView(APIView):
    """GET /v1/files/{id}/content"""

    content_negotiation_class = AnyAccept

    @extend_schema(operation_id="download_file", responses={(200, "application/octet-stream"): OpenApiTypes.BINARY})
    def get(self, request: Request, file_id: str) -> StreamingHttpResponse:
        """The file, byte by byte as it was sent or made."""
        file = access_file(get_caller(request), file_id)
        headers = {
            "Content-Length": str(file.num_bytes),
            "Content-Disposition": content_disposition_header(True, file.filename) or "attachment",
        }
        content = _Chunks(open_content(file))
        return StreamingHttpResponse(content, content_type="application/octet-stream", headers=headers)


class _Chunks:
    """A content as it is read from the storage, off the event loop. Closed with the response."""

    def __init__(self, content: File) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk: bytes = await asyncio.to_thread(self._content.read, _CHUNK_BYTES)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def close(self) -> None:
        self._content.close()
