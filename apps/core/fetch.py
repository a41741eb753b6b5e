"""Fetches a file from the web that a user names, without becoming the user's hand inside this network.

Every address that a name resolves to is checked, and the connection goes to the addresses that were checked; each
redirect starts over. Knows nothing of what is fetched.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

MAX_REDIRECTS = 4
MAX_URL_CHARS = 8192
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "Atrium", "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
# Public by their numbers, but inside: agents that clouds put beside their virtual machines (Azure, Oracle).
_INSIDE = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FetchError(Exception):
    """The file cannot be had; the message is a sentence for the client, without anything it did not know."""


class FetchTooLarge(FetchError):
    """The file is larger than allowed."""


class FetchRules(NamedTuple):
    """What may be fetched. A host in one of the sets stands for itself alone, ".example.com" for all below it."""

    max_bytes: int
    timeout_s: float
    hosts: frozenset[str] = frozenset()  # empty: any
    private_hosts: frozenset[str] = frozenset()  # may have addresses that are not public


async def fetch(url: str, rules: FetchRules) -> bytes:
    """The file at `url`. Raises FetchError."""
    async with _explaining(rules.timeout_s):
        return await _follow(url, rules)


async def post_json(url: str, body: bytes, rules: FetchRules) -> None:
    """Send it there, by the rules of `fetch`, and look at the status alone. Follows no redirect. Raises FetchError."""
    async with _explaining(rules.timeout_s):
        target = _parse(url)
        check_host(target, rules)
        headers = {**_HEADERS, "Content-Type": "application/json"}
        async with (
            _make_session(rules) as session,
            session.post(target, data=body, headers=headers, allow_redirects=False) as response,
        ):
            if not 200 <= response.status < 300:
                raise FetchError(f"Its server answered with status {response.status}.")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, also one that is wrapped in an IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped
        if translated is not None:
            return is_public(translated)
        if any(not is_public(inner) for inner in (address.sixtofour, *(address.teredo or ())) if inner is not None):
            return False
    if any(address in network for network in _INSIDE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def make_connector(rules: FetchRules, **options: Any) -> aiohttp.TCPConnector:
    """Connects to checked addresses only. `check_host` must have been asked before: a host may be an address itself."""
    return aiohttp.TCPConnector(resolver=_CheckedResolver(rules), use_dns_cache=False, **options)


def find_refusal(error: BaseException | None) -> FetchError | None:
    """The refusal of an address behind an error of aiohttp's, if that is what it was."""
    while error is not None:
        if isinstance(error, FetchError):
            return error
        error = error.__cause__ or error.__context__
    return None


def check_url(url: str, rules: FetchRules) -> None:
    """Raises FetchError, or ValueError, for what could not be fetched whatever its host's name stands for."""
    check_host(_parse(url), rules)


async def find_addresses(host: str, port: int, rules: FetchRules) -> list[str]:
    """Where a connection to this host may go. Raises OSError, with a FetchError behind it for a refusal."""
    if (address := _read_address(host)) is not None:
        try:
            _check_addresses([address], host, rules)
        except FetchError as error:
            raise OSError(str(error)) from error
        return [host]
    return [found["host"] for found in await _CheckedResolver(rules).resolve(host, port, socket.AF_UNSPEC)]


@asynccontextmanager
async def _explaining(timeout_s: float) -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise FetchError("It could not be fetched in time.") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if (cause := find_refusal(error)) is not None:
            raise cause from None
        raise FetchError("It could not be fetched.") from error


def _make_session(rules: FetchRules) -> aiohttp.ClientSession:
    connector = make_connector(rules, force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def _follow(url: str, rules: FetchRules) -> bytes:
    target = _parse(url)
    for _ in range(MAX_REDIRECTS + 1):
        check_host(target, rules)
        result = await _get(target, rules)
        if isinstance(result, bytes):
            return result
        target = _parse(str(target.join(result)))
    raise FetchError("It was redirected too often.")


def _parse(url: str) -> URL:
    if len(url) > MAX_URL_CHARS:
        raise FetchError("Its URL is too long.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError("Its URL must begin with http:// or https://.")
    if parts.username is not None or parts.password is not None:
        raise FetchError("Its URL must hold no user name and no password.")
    return URL(url)


def check_host(url: URL, rules: FetchRules) -> None:
    """Raises FetchError for a host that is not allowed; what a name's addresses are, `make_connector` sees."""
    host = (url.host or "").rstrip(".").lower()
    if rules.hosts and not _matches(host, rules.hosts):
        raise FetchError("Files of that host are not fetched here.")
    # aiohttp asks no resolver about a host that is written as an address.
    if (address := _read_address(host)) is not None:
        _check_addresses([address], host, rules)


async def _get(url: URL, rules: FetchRules) -> bytes | URL:
    """The file, or where it is said to be instead."""
    async with (
        _make_session(rules) as session,
        session.get(url, headers=_HEADERS, allow_redirects=False, auto_decompress=False) as response,
    ):
        if response.status in _REDIRECTS and (location := response.headers.get("Location")):
            return URL(location)
        if response.status != 200:
            raise FetchError(f"Its server answered with status {response.status}.")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise FetchError("Its server sent it compressed though that was not asked for.")
        return await _read(response, rules.max_bytes)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Up to the limit, whatever length the server names."""
    if (response.content_length or 0) > max_bytes:
        raise FetchTooLarge(f"It is larger than {max_bytes} bytes.")
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(64 * 1024):
        size += len(chunk)
        if size > max_bytes:
            raise FetchTooLarge(f"It is larger than {max_bytes} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


class _CheckedResolver(AbstractResolver):
    """Asks the system, in a thread, and hands on only addresses that may be connected to."""

    def __init__(self, rules: FetchRules) -> None:
        self._rules = rules

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError; a FetchError behind it where an address is refused."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        addresses = [str(sockaddr[0]) for _family, _type, _proto, _name, sockaddr in found]
        try:
            _check_addresses([ipaddress.ip_address(address) for address in addresses], host, self._rules)
        except FetchError as error:
            raise OSError(str(error)) from error
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=entry[0],
                proto=entry[2],
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address, entry in zip(addresses, found, strict=True)
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _check_addresses(addresses: Iterable[Address], host: str, rules: FetchRules) -> None:
    if _matches(host.rstrip(".").lower(), rules.private_hosts):
        return
    if not all(is_public(address) for address in addresses):
        raise FetchError("Its address is not a public one.")


def _read_address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _matches(host: str, allowed: frozenset[str]) -> bool:
    return host in allowed or any(host.endswith(entry) for entry in allowed if entry.startswith("."))
