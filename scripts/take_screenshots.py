"""Takes the pictures of the README from a running installation with its demo model.

Usage: python scripts/take_screenshots.py http://localhost:8000 USERNAME PASSWORD
Needs Chromium or Chrome on the PATH; writes docs/images/*.png. The person must be staff for the admin's picture.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
MESSAGES = ["What can you do?", "How do I connect Cursor?"]
WINDOWS = {
    "chat": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "chat-dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "chat-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True},
}


def log_in(page: Page, url: str, username: str, password: str) -> None:
    """Leaves the page at the chat."""
    page.goto(f"{url}/login")
    page.fill("[name=username]", username)
    page.fill("[name=password]", password)
    page.click("main button")
    page.wait_for_selector("#model:enabled")


def take(page: Page, name: str) -> None:
    """One picture of the window, with a palette of 256 colours: a fifth of the size, and no difference to be seen."""
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.name, path.stat().st_size)


def hold_conversation(browser: Browser, arguments: argparse.Namespace) -> str:
    """Asks the demo model the questions of the pictures. Returns the conversation's path."""
    page = browser.new_page()
    log_in(page, arguments.url, arguments.username, arguments.password)
    for number, text in enumerate(MESSAGES, start=1):
        page.fill("#composer-text", text)
        page.press("#composer-text", "Enter")
        page.wait_for_function("n => document.querySelectorAll('.assistant .meta').length === n", arg=number)
    return page.evaluate("location.pathname")


def main() -> None:
    """All pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "username", "password"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        path = hold_conversation(browser, arguments)
        for name, options in WINDOWS.items():
            page = browser.new_context(**options).new_page()
            log_in(page, arguments.url, arguments.username, arguments.password)
            page.goto(arguments.url + path)
            page.wait_for_selector(".assistant .meta")
            take(page, name)
            if name == "chat":
                page.goto(f"{arguments.url}/admin/")
                page.wait_for_timeout(1000)  # the chart's animation
                take(page, "admin")
        browser.close()


if __name__ == "__main__":
    main()
