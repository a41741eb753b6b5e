"""Lists in pages, as OpenAI's: `limit`, `order`, `after` of a request, and the list object that answers it."""

from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from apps.core.errors import InvalidRequest

DEFAULT_LIMIT, MAX_LIMIT = 20, 100

Row = TypeVar("Row", bound=Model)


def read_limit(request: Request, default: int = DEFAULT_LIMIT, maximum: int = MAX_LIMIT) -> int:
    """Raises InvalidRequest."""
    given = request.query_params.get("limit", str(default))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= maximum):
        raise InvalidRequest(f"'limit' must be a number from 1 to {maximum}.", param="limit")
    return int(given)


def read_order(request: Request) -> bool:
    """Whether the latest comes first. Raises InvalidRequest."""
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc.", param="order")
    return order == "desc"


def select_page(rows: QuerySet[Row], request: Request, *, limit: int, is_descending: bool = True) -> list[Row]:
    """The page of these rows that was asked for, and one row more where there is one. Raises InvalidRequest.

    They have a `created_at`, and an id that is a text.
    """
    if after := request.query_params.get("after"):
        place = None if "\x00" in after else rows.filter(pk=after).values_list("created_at", "pk").first()
        if place is None:
            raise InvalidRequest(f"'after': there is no object '{after}' in the list.", param="after")
        created_at, pk = place
        side = "lt" if is_descending else "gt"
        rows = rows.filter(
            Q(**{f"created_at__{side}": created_at}) | Q(**{"created_at": created_at, f"pk__{side}": pk})
        )
    sign = "-" if is_descending else ""
    return list(rows.order_by(f"{sign}created_at", f"{sign}pk")[: limit + 1])


def make_page(objects: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The list object of up to `limit` objects; one more says that the list goes on."""
    page = objects[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(objects) > limit,
    }


def describe_paging(default: int = DEFAULT_LIMIT, maximum: int = MAX_LIMIT) -> list[OpenApiParameter]:
    """For the OpenAPI document."""
    return [
        OpenApiParameter("after", str),
        OpenApiParameter("limit", int, description=f"1 to {maximum}, by default {default}"),
    ]
