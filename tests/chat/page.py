"""A chat page for tests: a socket of the real application, logged in by a real session."""

from typing import Any, Self

from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import Client

from apps.accounts.models import User
from project.asgi import application

WAIT_S = 30.0


def log_in(user: User | None) -> str:
    """The value of the Cookie header of somebody who is logged in; empty for nobody. Blocks."""
    if user is None:
        return ""
    client = Client()
    client.force_login(user)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


class Page:
    """One open socket. Use as an async context manager, made from the cookie of `log_in`."""

    def __init__(self, cookie: str, model: str = "scripted") -> None:
        headers = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"cookie", cookie.encode())]
        self.socket = WebsocketCommunicator(application, "/ws/chat/", headers=headers)
        self.settings: dict[str, Any] = {"model": model}

    async def __aenter__(self) -> Self:
        connected, _ = await self.socket.connect(timeout=WAIT_S)
        assert connected
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.socket.disconnect(timeout=WAIT_S)

    async def ask(self, kind: str, **fields: Any) -> None:
        """Sends one message of this type."""
        if kind in ("send", "regenerate"):
            fields.setdefault("settings", self.settings)
        await self.socket.send_json_to({"type": kind, **fields})

    async def receive(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of this type."""
        message = await self.socket.receive_json_from(timeout=WAIT_S)
        assert message["type"] == kind, message
        return message

    async def receive_until(self, kind: str) -> list[dict[str, Any]]:
        """All messages up to and with the first of this type."""
        messages = [await self.socket.receive_json_from(timeout=WAIT_S)]
        while messages[-1]["type"] != kind:
            messages.append(await self.socket.receive_json_from(timeout=WAIT_S))
        return messages

    async def receive_text(self, text: str) -> None:
        """Returns once the deltas received make up this text."""
        received = ""
        while received != text:
            message = await self.socket.receive_json_from(timeout=WAIT_S)
            assert message["type"] in ("waiting", "delta"), message
            received += message.get("text", "")
            assert text.startswith(received), f"{received!r} is not the beginning of {text!r}"


def join(messages: list[dict[str, Any]]) -> str:
    """The text of all deltas."""
    return "".join(message["text"] for message in messages if message["type"] == "delta")
