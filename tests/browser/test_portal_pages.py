"""Login and API keys in a browser."""

import re

import pytest
from playwright.async_api import Browser, expect

from apps.accounts.models import APIKey, User
from tests.browser.conftest import PHONE, Visitor, open_window

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # one browser for the module


async def test_login_fails_and_succeeds(browser: Browser, server: str, user: User) -> None:
    visitor = await open_window(browser, server)
    page = visitor.page
    await visitor.go("/keys")
    await page.fill("[name=username]", "mina")
    await page.fill("[name=password]", "wrong")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await page.fill("[name=password]", "password")
    await page.get_by_role("button", name="Log in").click()
    await expect(page).to_have_url(f"{server}/keys")
    assert visitor.complaints == []


async def test_key_is_made_copied_used_and_revoked(visitor: Visitor) -> None:
    page = visitor.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await visitor.go("/keys")
    await page.fill("[name=name]", "laptop")
    await page.get_by_role("button", name="Create key").click()
    await page.locator("[data-copy=secret]").click()
    secret = await page.evaluate("navigator.clipboard.readText()")
    assert re.fullmatch(r"atr_[\w-]{43}", secret)
    models = f"{visitor.url}/v1/models"
    headers = {"Authorization": f"Bearer {secret}"}
    assert (await page.request.get(models, headers=headers)).status == 200
    await page.reload()  # shows the list; makes no second key
    await expect(page.locator("#fresh")).to_have_count(0)
    assert await APIKey.objects.acount() == 1
    await page.get_by_role("button", name="Revoke").click()
    await page.locator("#confirm [value=no]").click()
    assert (await APIKey.objects.aget()).is_active
    await page.get_by_role("button", name="Revoke").click()
    await page.locator("#confirm [value=yes]").click()
    await expect(page.locator(".keys .tag")).to_have_text("revoked")
    assert (await page.request.get(models, headers=headers)).status == 401


async def test_pages_fit_a_phone(browser: Browser, server: str, cookie: str) -> None:
    visitor = await open_window(browser, server, cookie, viewport=PHONE, has_touch=True, is_mobile=True)
    await visitor.go("/keys")
    await visitor.page.fill("[name=name]", "a rather long name for a key of a phone")
    await visitor.page.get_by_role("button", name="Create key").click()
    await expect(visitor.page.locator("#fresh")).to_be_visible()
    assert await visitor.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert visitor.complaints == []


async def test_language_is_switched(visitor: Visitor) -> None:
    await visitor.open_chat()
    await visitor.page.click(".account summary")
    await visitor.page.get_by_role("button", name="한국어").click()
    await expect(visitor.page.get_by_placeholder("무엇이든 물어보세요")).to_be_visible()
