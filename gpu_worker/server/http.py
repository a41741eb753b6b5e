"""What the worker's port answers before a WebSocket exists: the token check, and GET /health."""

import hmac
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from gpu_worker.server.status import WorkerStatus

_HEALTH_PATH = "/health"


class Gate:
    """`process_request` of the WebSocket server: None lets the handshake go on."""

    def __init__(self, token: str, status: WorkerStatus) -> None:
        """An empty token lets everybody in."""
        self._token = token.encode()
        self._status = status

    def __call__(self, _connection: ServerConnection, request: Request) -> Response | None:
        if not self._is_allowed(request.headers):
            return _respond(HTTPStatus.UNAUTHORIZED, b'{"error": "a valid bearer token is required"}')
        if request.path.partition("?")[0] == _HEALTH_PATH:
            return _respond(self._status.http_status, self._status.to_json())
        return None

    def _is_allowed(self, headers: Headers) -> bool:
        if not self._token:
            return True
        given = headers.get_all("Authorization")
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(errors="surrogateescape"), self._token
        )


def _respond(status: int, body: bytes) -> Response:
    headers = Headers(
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
    )
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(int(status), HTTPStatus(status).phrase, headers, body)
