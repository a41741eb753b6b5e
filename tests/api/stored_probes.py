"""A value for every request field of endpoints that keep something, and for every field of a query."""

from tests.api.field_probes import Probe

LATEST = "the id of the latest object of the list"
OTHER_FILE = "the id of another file"
USER_MESSAGE = {"role": "user", "content": "other"}

STORED: dict[str, dict[str, Probe]] = {
    "/v1/files": {
        "expires_after": Probe({"anchor": "created_at", "seconds": 3600}),
        "file": Probe(b'{"a": 1}\n'),
        "purpose": Probe("user_data"),
    },
    "/v1/batches": {
        "completion_window": Probe("1h"),  # there is one that is served: any other is a 400
        "endpoint": Probe("/v1/completions"),
        "input_file_id": Probe(OTHER_FILE),
        "metadata": Probe({"a": "b"}),
        "output_expires_after": Probe({"anchor": "created_at", "seconds": 60}),  # a 400: an hour is the least
    },
    "/v1/conversations": {"items": Probe([USER_MESSAGE]), "metadata": Probe({"a": "b"})},
    "/v1/conversations/{id}": {"metadata": Probe({"c": "d"})},
    "/v1/conversations/{id}/items": {"items": Probe([USER_MESSAGE])},
}
_PAGE = {"after": Probe(LATEST), "limit": Probe(1)}
_ORDERED = _PAGE | {"order": Probe("asc")}
_INCLUDE = {"include": Probe("message.output_text.logprobs")}
QUERIES: dict[str, dict[str, Probe]] = {
    "GET /v1/files": _ORDERED | {"purpose": Probe("user_data")},
    "GET /v1/batches": _PAGE,
    "GET /v1/responses/{id}": _INCLUDE
    | {
        "include_obfuscation": Probe("true", {"stream": "true"}),
        "starting_after": Probe(2, {"stream": "true"}),
        "stream": Probe("true"),
    },
    "GET /v1/responses/{id}/input_items": _ORDERED | _INCLUDE,
    "GET /v1/conversations/{id}/items": _ORDERED | _INCLUDE,
    "GET /v1/conversations/{id}/items/{id}": _INCLUDE,
    "POST /v1/conversations/{id}/items": _INCLUDE,
}
