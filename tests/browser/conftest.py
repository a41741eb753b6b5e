"""A real browser on a real server. The machine's own Chromium is driven: nothing is downloaded."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, ViewportSize, async_playwright, expect

from apps.accounts.models import User
from apps.registry.models import HostedModel
from tests.api.conftest import server
from tests.chat.page import log_in
from tests.factories import make_team, make_user
from tests.scripted_fixtures import scripted_model, worker

__all__ = ["scripted_model", "server", "worker"]  # fixtures

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=360, height=740)


def find_browser() -> str:
    """The path of Chromium or Chrome. Fails where there is none: these tests are not to be left out by accident."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.fail("the browser tests need Chromium or Chrome on the PATH")


@dataclass
class Visitor:
    """One person at a browser window."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)  # errors in scripts, violations of the policy

    async def go(self, path: str) -> None:
        await self.page.goto(self.url + path)

    async def open_chat(self) -> None:
        """The chat page, once it can be written to."""
        await self.go("/")
        await self.page.wait_for_selector("#model:enabled")

    async def say(self, text: str) -> None:
        """Types a message, sends it with Enter, and returns once its answer has begun."""
        answers = self.page.locator(".message.assistant")
        num_before = await answers.count()
        await self.page.fill("#composer-text", text)
        await self.page.press("#composer-text", "Enter")
        await expect(answers).to_have_count(num_before + 1)

    @property
    def answer(self) -> Locator:
        """The last answer."""
        return self.page.locator(".message.assistant").last

    async def wait_for_text(self, text: str) -> None:
        """Until the last answer's text is this, spaces aside."""
        await self.page.wait_for_function(
            "text => [...document.querySelectorAll('.message.assistant .prose')].at(-1)?.innerText.trim() === text",
            arg=text,
        )

    async def wait_for_end(self) -> None:
        """Until no answer is being written."""
        await self.page.wait_for_selector("#send:not([hidden])", state="visible")
        await self.page.wait_for_selector(".streaming", state="detached")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield running
        await running.close()


@pytest.fixture
def user(scripted_model: HostedModel) -> User:
    """A member of a team, with the model "scripted" to talk to."""
    return make_user("mina", team=make_team("Research"))


@pytest.fixture
def cookie(user: User) -> str:
    return log_in(user)


async def open_window(browser: Browser, url: str, cookie: str = "", **options: Any) -> Visitor:
    """A new window, logged in where a cookie is given."""
    context = await browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(10_000)
    if cookie:
        name, value = cookie.split("=", 1)
        await context.add_cookies([{"name": name, "value": value, "url": url}])
    visitor = Visitor(await context.new_page(), url)
    visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    visitor.page.on(
        "console", lambda line: visitor.complaints.append(line.text) if line.type in ("error", "warning") else None
    )
    return visitor


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(browser: Browser, server: str, cookie: str) -> AsyncIterator[Visitor]:
    """`user` at a desktop. No script may fail and no policy be violated."""
    visitor = await open_window(browser, server, cookie)
    yield visitor
    await visitor.page.context.close()
    assert visitor.complaints == []
