"""Asks a worker's own health page how it is. Knows no database."""

import http.client
from typing import Any

import msgspec

from gpu_worker.protocol import RepositoryCode

TIMEOUT_S = 2.0


class Health(msgspec.Struct, frozen=True):
    """The body of the worker's GET /health. Unknown fields are left to newer readers."""

    status: str  # loading, ready, draining, failed
    progress: float = 0.0
    stage: str = ""
    error: str | None = None
    info: dict[str, Any] | None = None
    unapproved_code: RepositoryCode | None = None  # what the model would have to run, and may not
    idle_s: float | None = None  # since the last request ended or, without any, since it was ready; None: it works

    @property
    def is_idle(self) -> bool:
        """No request is active, not even one being prepared."""
        return self.idle_s is not None


_decoder = msgspec.json.Decoder(Health)


def get_health(host: str, port: int, token: str) -> Health | None:
    """The worker's answer, whatever its HTTP status; None when there is none within TIMEOUT_S. Blocking."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health", headers={"Authorization": f"Bearer {token}"})
        return _decoder.decode(connection.getresponse().read())
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return None
    finally:
        connection.close()
