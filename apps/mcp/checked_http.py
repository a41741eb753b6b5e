"""The HTTP client by which servers of tools are reached: to checked addresses, their own origin, and so many bytes.

Slow to import: only `connection.py` does. Knows nothing of tools.
"""

import ssl
from collections.abc import AsyncIterator
from functools import cache
from typing import cast

import httpx2

from apps.core.fetch import FetchError, FetchRules, find_addresses

CONNECT_TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
# What a server is not told by a caller's headers: it would break the connection or the protocol.
RESERVED_HEADERS = frozenset(
    [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "mcp-protocol-version",
        "mcp-session-id",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)


class Refused(httpx2.TransportError):
    """Not sent, or not read on: the message says why."""


def make_client(
    url: str, headers: dict[str, str], rules: FetchRules, read_timeout_s: float, refusals: list[str]
) -> httpx2.AsyncClient:
    """For one connection to the server at this URL. Blocking: it may read the system's certificates.

    Why something was refused goes into `refusals` too: the SDK keeps some errors to itself.
    """
    return httpx2.AsyncClient(
        transport=_CheckedTransport(httpx2.URL(url), rules, refusals),
        headers={**headers, "user-agent": "Atrium", "accept-encoding": "identity"},
        timeout=httpx2.Timeout(CONNECT_TIMEOUT_S, read=read_timeout_s),
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
    )


class _CheckedTransport(httpx2.AsyncBaseTransport):
    """Every request, also one that a redirect or the server's own words lead to, goes through here."""

    def __init__(self, url: httpx2.URL, rules: FetchRules, refusals: list[str]) -> None:
        self._refusals = refusals
        self._origin = _get_origin(url)
        self._rules = rules
        self._num_left = rules.max_bytes
        verify = _make_ssl_context() if url.scheme == "https" else False
        self._inner = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises TransportError."""
        if _get_origin(request.url) != self._origin:
            raise self._refuse("The server points to another host.")
        host = request.url.host
        try:
            addresses = await find_addresses(host, request.url.port or 0, self._rules)
        except OSError as error:
            is_refusal = isinstance(error.__cause__, FetchError)
            raise self._refuse(str(error) if is_refusal else "Its address cannot be found.") from error
        sent = httpx2.Request(
            request.method,
            request.url.copy_with(host=addresses[0]),
            headers=request.headers,  # among them the host by its name
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        response = await self._inner.handle_async_request(sent)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            await response.aclose()
            raise self._refuse("The server compressed its answer though that was not asked for.")
        response.stream = _BoundedStream(cast(httpx2.AsyncByteStream, response.stream), self)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def count(self, num_bytes: int) -> None:
        """Raises Refused when the server has sent more than it may."""
        self._num_left -= num_bytes
        if self._num_left < 0:
            raise self._refuse(f"The server sent more than {self._rules.max_bytes} bytes.")

    def _refuse(self, message: str) -> Refused:
        self._refusals.append(message)
        return Refused(message)


class _BoundedStream(httpx2.AsyncByteStream):
    """The body of a response, counted with all others of the connection."""

    def __init__(self, inner: httpx2.AsyncByteStream, transport: _CheckedTransport) -> None:
        self._inner = inner
        self._transport = transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._transport.count(len(chunk))
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


@cache
def _make_ssl_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


def _get_origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
