"""Who may see and change a conversation: its user alone, by socket and by page."""

from typing import Any

import pytest
from django.test import Client

from apps.accounts.models import Team, User
from apps.chat.models import Conversation, Message, MessageRole
from tests.chat.page import WAIT_S, Page, log_in
from tests.factories import make_user

OTHERS = ["teammate", "outsider", "administrator"]


@pytest.fixture
def conversation(user: User, team: Team) -> Conversation:
    """A conversation of `user` with one exchange in it."""
    conversation = Conversation.objects.create(user=user, team=team, title="Private", model_name="scripted")
    Message.objects.create(conversation=conversation, role=MessageRole.USER, content="secret question")
    Message.objects.create(conversation=conversation, role=MessageRole.ASSISTANT, content="secret answer")
    return conversation


@pytest.fixture
def others(team: Team) -> dict[str, User]:
    """People who are not the conversation's user."""
    return {
        "teammate": make_user("teammate", team=team),
        "outsider": make_user("outsider"),
        "administrator": make_user("administrator", team=team, is_staff=True, is_superuser=True),
    }


@pytest.fixture
def other_cookies(others: dict[str, User]) -> dict[str, str]:
    return {name: log_in(user) for name, user in others.items()}


async def test_anonymous_socket_is_closed() -> None:
    page = Page("")
    connected, _ = await page.socket.connect(timeout=WAIT_S)
    assert connected
    closed = await page.socket.receive_output(timeout=WAIT_S)
    assert (closed["type"], closed["code"]) == ("websocket.close", 4401)


@pytest.mark.parametrize(
    ("host", "origin", "welcome"),
    [
        ("localhost:8000", "http://localhost:8000", True),
        ("localhost", "https://LOCALHOST", True),
        ("inner:9000", "https://portal.example", True),  # PUBLIC_BASE_URL, behind a proxy that rewrites Host
        ("localhost:8000", "http://localhost:3000", False),  # another program of the same machine
        ("localhost", "https://evil.example", False),
        ("evil.example", "https://evil.example", False),  # a name that was pointed at our address
        ("localhost", "null", False),
        ("localhost", "http://[", False),
        ("localhost", None, False),
        ("", "http://", False),
    ],
)
async def test_only_our_own_pages_open_the_socket(
    cookie: str, settings: Any, host: str, origin: str | None, welcome: bool
) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://portal.example"]
    page = Page(cookie)
    headers = [(b"host", host.encode()), page_cookie(cookie)]
    page.socket.scope["headers"] = headers + ([(b"origin", origin.encode())] if origin is not None else [])
    connected, _ = await page.socket.connect(timeout=WAIT_S)
    assert connected is welcome
    await page.socket.disconnect()


def page_cookie(cookie: str) -> tuple[bytes, bytes]:
    return b"cookie", cookie.encode()


@pytest.mark.parametrize("who", OTHERS)
@pytest.mark.parametrize("kind", ["open", "send", "regenerate", "stop"])
async def test_another_persons_conversation_does_not_exist(
    conversation: Conversation, other_cookies: dict[str, str], who: str, kind: str
) -> None:
    async with Page(other_cookies[who]) as page:
        fields = {"content": "Hi"} if kind == "send" else {}
        await page.ask(kind, conversation=str(conversation.pk), **fields)
        refused = (await page.receive_until("error"))[-1]
        if not (kind == "open" and who == "outsider"):  # who is in no team is told so first
            assert refused["code"] == "not_found"
    assert await Message.objects.acount() == 2


@pytest.mark.parametrize("identifier", ["nonsense", "5b0d1c9e-1f0f-4a53-8d3a-0a3f4f1f6c55"])
async def test_unknown_conversation_is_refused(cookie: str, identifier: str) -> None:
    async with Page(cookie) as page:
        await page.ask("send", content="Hi", conversation=identifier)
        assert (await page.receive("error"))["code"] == "not_found"


async def test_disabled_account_is_refused_on_an_open_socket(cookie: str, user: User) -> None:
    async with Page(cookie) as page:
        await User.objects.filter(pk=user.pk).aupdate(is_active=False)
        await page.ask("send", content="Hi")
        assert (await page.receive("error"))["code"] == "invalid_api_key"
    assert await Conversation.objects.acount() == 0


async def test_person_without_a_team_is_told_so(other_cookies: dict[str, str]) -> None:
    async with Page(other_cookies["outsider"]) as page:
        await page.ask("send", content="Hi")
        assert (await page.receive("error"))["code"] == "permission_denied"
    assert await Conversation.objects.acount() == 0


def test_page_needs_a_login(client: Client, conversation: Conversation) -> None:
    for path in ("/", f"/c/{conversation.pk}"):
        response = client.get(path)
        assert (response.status_code, response["Location"]) == (302, f"/login?next={path}")


def test_owner_sees_the_page(client: Client, conversation: Conversation, user: User) -> None:
    client.force_login(user)
    response = client.get(f"/c/{conversation.pk}")
    assert response.status_code == 200
    assert "Private" in response.content.decode()
    assert "Private" in client.get("/").content.decode()  # in the list


@pytest.mark.parametrize("who", OTHERS)
def test_others_get_404_for_everything(
    client: Client, conversation: Conversation, others: dict[str, User], who: str
) -> None:
    client.force_login(others[who])
    path = f"/c/{conversation.pk}"
    assert client.get(path).status_code == 404
    assert client.post(f"{path}/rename", {"title": "Mine"}).status_code == 404
    assert client.post(f"{path}/delete").status_code == 404
    assert "Private" not in client.get("/").content.decode()
    conversation.refresh_from_db()
    assert conversation.title == "Private"


def test_owner_renames_and_deletes(client: Client, conversation: Conversation, user: User) -> None:
    client.force_login(user)
    path = f"/c/{conversation.pk}"
    assert client.post(f"{path}/rename", {"title": "  New\n name "}).status_code == 204
    conversation.refresh_from_db()
    assert conversation.title == "New name"
    assert client.post(f"{path}/rename", {"title": " "}).status_code == 400
    assert client.post(f"{path}/rename", {"title": "x" * 121}).status_code == 400
    assert client.get(f"{path}/delete").status_code == 405
    assert client.post(f"{path}/delete").status_code == 204
    assert client.get(path).status_code == 404
    assert Message.objects.count() == 0


def test_changes_need_a_csrf_token(conversation: Conversation, user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.post(f"/c/{conversation.pk}/delete").status_code == 403
    assert Conversation.objects.count() == 1
