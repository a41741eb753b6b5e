"""Files that users name: what is fetched, and what is refused before anybody is asked."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from apps.core.fetch import FetchError, FetchRules, FetchTooLarge, fetch, is_public, post_json
from tests.file_server import FileServer, Reply, run_file_server

PUBLIC = FetchRules(max_bytes=1000, timeout_s=60)
LOCAL = PUBLIC._replace(private_hosts=frozenset({"127.0.0.1"}))


@pytest.fixture
def files() -> Iterator[FileServer]:
    with run_file_server() as server:
        yield server


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.0.192", "198.18.0.1", "168.63.129.16"),
        *("::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::"),
    ],
)
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_outer_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0", "169.254.169.254"],
)
async def test_nothing_inside_is_asked_however_it_is_written(files: FileServer, host: str) -> None:
    files.replies["/x"] = Reply(b"secret")
    with pytest.raises(FetchError, match=r"not a public one|could not be fetched"):
        await fetch(files.url("/x", host), PUBLIC)
    assert not files.asked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/x", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://127.0.0.1/", "http:// or https://"),
        ("//example.com/x", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http://user:secret@example.com/x", "user name"),
        ("http://example.com/" + "x" * 9000, "too long"),
        ("http://[::1", "could not be fetched"),
        ("http://no-such-host.invalid/x", "could not be fetched"),
        ("http://exa mple.com:port/x", "could not be fetched"),
    ],
)
async def test_urls_that_lead_nowhere_are_refused(url: str, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        await fetch(url, PUBLIC)


async def test_a_file_is_fetched_from_a_host_that_is_allowed(files: FileServer) -> None:
    files.replies["/a.png"] = Reply(b"content")
    assert await fetch(files.url("/a.png"), LOCAL) == b"content"
    ((path, headers),) = files.asked
    assert path == "/a.png"
    assert headers["User-Agent"] == "Atrium"
    assert not {"Cookie", "Authorization"} & headers.keys()


async def test_redirects_are_followed_and_checked_again(files: FileServer) -> None:
    files.replies |= {
        "/a": Reply(status=302, headers={"Location": "/b"}),
        "/b": Reply(status=307, headers={"Location": files.url("/c")}),
        "/c": Reply(b"content", headers={"Set-Cookie": "a=1"}),
        "/inside": Reply(status=302, headers={"Location": files.url("/c", "localhost")}),
        "/file": Reply(status=302, headers={"Location": "file:///etc/passwd"}),
        "/loop": Reply(status=301, headers={"Location": "/loop"}),
    }
    assert await fetch(files.url("/a"), LOCAL) == b"content"
    for path, message in (("/inside", "public"), ("/file", "http://"), ("/loop", "too often")):
        with pytest.raises(FetchError, match=message):
            await fetch(files.url(path), LOCAL)
    assert [path for path, _ in files.asked].count("/c") == 1
    assert [path for path, _ in files.asked].count("/loop") == 5


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"x" * 1001),
        Reply(b"x" * 2000, headers={"Content-Length": "999999999"}),
        Reply(b"x" * 2000, headers={"Content-Length": ""}),
    ],
    ids=["by its length", "by a length it only names", "read"],
)
async def test_a_file_that_is_too_large_is_not_read_to_its_end(files: FileServer, reply: Reply) -> None:
    files.replies["/x"] = reply
    with pytest.raises(FetchTooLarge, match="larger than 1000 bytes"):
        await fetch(files.url("/x"), LOCAL)


async def test_other_answers_are_refused(files: FileServer) -> None:
    files.replies |= {
        "/gone": Reply(b"no", status=410),
        "/zip": Reply(b"zipped", headers={"Content-Encoding": "gzip"}),
        "/cut": Reply(b"half", headers={"Content-Length": "400"}),
    }
    for path, message in (("/gone", "status 410"), ("/zip", "compressed"), ("/cut", "could not be fetched")):
        with pytest.raises(FetchError, match=message):
            await fetch(files.url(path), LOCAL)


async def test_a_slow_server_is_not_waited_for(files: FileServer) -> None:
    files.replies["/slow"] = Reply(b"x" * 500, gap_s=0.05)
    with pytest.raises(FetchError, match="in time"):
        await fetch(files.url("/slow"), LOCAL._replace(timeout_s=0.3))


async def test_only_named_hosts_where_hosts_are_named(files: FileServer) -> None:
    files.replies["/x"] = Reply(b"content")
    rules = LOCAL._replace(hosts=frozenset({"images.example.com", ".example.org"}))
    for url in (files.url("/x"), "http://example.org/x", "http://images.example.com.evil.net/x"):
        with pytest.raises(FetchError, match="host"):
            await fetch(url, rules)
    assert await fetch(files.url("/x"), rules._replace(hosts=frozenset({"127.0.0.1"}))) == b"content"


async def test_the_address_that_was_checked_is_the_one_connected_to(
    files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is asked for twice may answer with another address: it is asked for once."""
    files.replies["/x"] = Reply(b"secret")
    answers = [["93.184.216.34", "127.0.0.1"], ["127.0.0.1"]]
    asked = []

    async def resolve(_loop: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[len(asked) - 1]]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", resolve, raising=False)
    with pytest.raises(FetchError, match="public"):
        await fetch(f"http://two-faced.example:{files.port}/x", PUBLIC)
    assert asked == ["two-faced.example"]
    assert not files.asked


async def test_json_is_posted_by_the_same_rules(files: FileServer) -> None:
    files.replies["/hook"] = Reply(b"thanks")
    files.replies["/elsewhere"] = Reply(status=302, headers={"Location": files.url("/hook")})
    await post_json(files.url("/hook"), b'{"a": 1}', LOCAL)
    assert files.posted == [b'{"a": 1}']
    with pytest.raises(FetchError, match="302"):
        await post_json(files.url("/elsewhere"), b"{}", LOCAL)
    with pytest.raises(FetchError, match="not a public one"):
        await post_json(files.url("/hook"), b"{}", PUBLIC)
    assert len(files.posted) == 2
