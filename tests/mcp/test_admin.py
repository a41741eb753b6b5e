"""The admin's pages of servers: what each may hold, who may write it, and that secrets do not come out."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from apps.accounts.models import User
from apps.mcp.access import read_server
from apps.mcp.models import McpServer, Transport
from apps.mcp.servers import HttpTarget, StdioTarget
from tests.factories import make_user
from tests.mcp_servers import RunningServer, describe_program

ADD = "admin:mcp_mcpserver_add"
HTTP = {"name": "kit", "enabled": "on", "transport": "http", "arguments": "[]", "url": "https://example.com/mcp"}


@pytest.fixture
def boss(db: None) -> User:
    return make_user("boss", is_staff=True, is_superuser=True)


@pytest.fixture
def page(boss: User) -> Client:
    client = Client()
    client.force_login(boss)
    return client


@pytest.fixture
def clerk_page(db: None) -> Client:
    clerk = make_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.all())
    client = Client()
    client.force_login(clerk)
    return client


def change(page: Client, server: McpServer, **fields: Any) -> int:
    return page.post(reverse("admin:mcp_mcpserver_change", args=[server.pk]), HTTP | fields).status_code


def test_secrets_go_in_and_do_not_come_out(page: Client) -> None:
    assert page.post(reverse(ADD), HTTP | {"headers": '{"X-Key": "hush-hush"}'}).status_code == 302
    server = McpServer.objects.get()
    text = page.get(reverse("admin:mcp_mcpserver_change", args=[server.pk])).content.decode()
    assert "X-Key" in text
    assert "hush-hush" not in text
    assert change(page, server, name="kit2") == 302
    server.refresh_from_db()
    target = read_server(server).target
    assert isinstance(target, HttpTarget)
    assert target.headers == {"X-Key": "hush-hush"}
    assert "hush-hush" not in repr(target)


def test_secrets_do_not_follow_to_another_address(page: Client, clerk_page: Client) -> None:
    page.post(reverse(ADD), HTTP | {"headers": '{"X-Key": "hush-hush"}'})
    server = McpServer.objects.get()
    assert change(clerk_page, server, url="https://example.com/other") == 302
    server.refresh_from_db()
    assert server.encrypted_headers
    assert change(clerk_page, server, url="https://evil.example/mcp") == 302
    server.refresh_from_db()
    assert server.encrypted_headers == ""


def test_programs_and_private_addresses_are_for_superusers(page: Client, clerk_page: Client) -> None:
    command, _, _ = describe_program()
    program = HTTP | {"transport": "stdio", "url": "", "command": command, "env": '{"A": "b"}'}
    assert clerk_page.post(reverse(ADD), program).status_code == 200
    assert not McpServer.objects.exists()
    assert page.post(reverse(ADD), program).status_code == 302
    server = McpServer.objects.get()
    assert read_server(server).target == StdioTarget(command, (), {"A": "b"})
    assert change(clerk_page, server, command="/bin/sh") == 403
    assert clerk_page.post(reverse(ADD), HTTP | {"name": "other", "may_be_private": "on"}).status_code == 302
    assert not McpServer.objects.get(name="other").may_be_private


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "1st"},
        {"name": "a b"},
        {"url": ""},
        {"url": "ftp://example.com"},
        {"url": "http://user:pw@example.com"},
        {"url": "http://[::1"},
        {"headers": "[1]"},
        {"headers": '{"a": 1}'},
        {"headers": "{"},
        {"transport": "stdio", "command": "sh"},
        {"transport": "stdio", "command": "/bin/sh", "arguments": '{"a": 1}'},
        {"transport": "stdio", "command": "/bin/sh", "arguments": "[1]"},
        {"enabled_tools": ["unknown"]},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_nonsense_is_refused(page: Client, fields: dict[str, Any]) -> None:
    assert page.post(reverse(ADD), HTTP | fields).status_code == 200
    assert not McpServer.objects.exists()


def test_buttons_ask_for_tools_and_allow_them(page: Client, tools: RunningServer) -> None:
    good = McpServer.objects.create(name="good", url=tools.url(), may_be_private=True)
    bad = McpServer.objects.create(name="bad", url=tools.url("/nonsense"), may_be_private=True)

    def press(action: str) -> str:
        chosen = {"action": action, "_selected_action": [good.pk, bad.pk]}
        return page.post(reverse("admin:mcp_mcpserver_changelist"), chosen, follow=True).content.decode()

    text = press("refresh")
    good.refresh_from_db()
    bad.refresh_from_db()
    assert (bool(good.tools), good.enabled_tools, good.error) == (True, [], "")
    assert bad.error
    assert f"good has {len(good.tools)} tools." in text
    assert "cannot be reached" in text
    press("enable_all")
    good.refresh_from_db()
    assert good.enabled_tools == [tool["name"] for tool in good.tools]
    assert change(page, good, name="good", url=tools.url(), may_be_private="on", enabled_tools=["add"]) == 302
    good.refresh_from_db()
    assert good.enabled_tools == ["add"]
    assert good.transport == Transport.HTTP
