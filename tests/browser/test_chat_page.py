"""The chat page in a browser."""

import re

import pytest
from playwright.async_api import Browser, expect

from apps.chat import runs
from apps.chat.models import Conversation, Message, MessageStatus
from tests.browser.conftest import PHONE, Visitor, open_window
from tests.scripted_worker import ScriptedWorker

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]  # one browser for the module

MARKDOWN = """# Title

A **bold** word, `code` and [a link](https://example.com/).

| a | b |
|---|---|
| 1 | 2 |

```python
def answer() -> int:
    return 42
```
"""
ATTACK = """<script>window.hacked = 1</script>

<img src=x onerror="window.hacked = 2">

[click](javascript:window.hacked=3) <a href="javascript:window.hacked=4">raw</a>
![picture](https://tracker.example/pixel.png)

<iframe src="https://evil.example"></iframe><svg onload="window.hacked=5">

```html
<img src=x onerror="window.hacked = 6">
```

```"><img src=x onerror=window.hacked=7>
code
```
"""


async def test_conversation_from_the_first_message_to_the_list(visitor: Visitor, worker: ScriptedWorker) -> None:
    page = visitor.page
    worker.say("Hello ", "**there**")
    await visitor.open_chat()
    await expect(page.locator("#welcome")).to_be_visible()
    await visitor.say("Hi!")
    await visitor.wait_for_text("Hello there")
    await visitor.wait_for_end()
    await expect(page.locator(".prose strong")).to_have_text("there")
    await expect(page.locator("#welcome")).to_be_hidden()
    await expect(page.locator("#composer-text")).to_have_value("")
    await expect(page.locator(".conversation[aria-current]")).to_have_text("Hi!")
    await expect(page).to_have_title("Hi! · Atrium")
    await expect(page).to_have_url(re.compile("/c/[0-9a-f-]{36}$"))
    await page.reload()
    await visitor.wait_for_text("Hello there")
    await expect(page.locator(".message.user .text")).to_have_text("Hi!")
    await expect(visitor.answer.locator(".meta")).to_contain_text("scripted")


async def test_markdown_is_rendered_and_code_is_highlighted_and_copied(
    visitor: Visitor, worker: ScriptedWorker
) -> None:
    page = visitor.page
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    worker.say(*re.findall(r"\S*\s*", MARKDOWN)[:-1])
    await visitor.open_chat()
    await visitor.say("Show me")
    await visitor.wait_for_end()
    prose = visitor.answer.locator(".prose")
    await expect(prose.locator("h1")).to_have_text("Title")
    await expect(prose.locator("td").first).to_have_text("1")
    await expect(prose.locator(".hljs-keyword").first).to_have_text("def")
    await expect(prose.locator("a")).to_have_attribute("rel", "noopener noreferrer nofollow")
    await prose.get_by_role("button", name="Copy code").click()
    assert await page.evaluate("navigator.clipboard.readText()") == "def answer() -> int:\n    return 42\n"
    await visitor.answer.get_by_role("button", name="Copy answer").click()
    assert await page.evaluate("navigator.clipboard.readText()") == MARKDOWN


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "character by character"])
async def test_an_answer_cannot_run_scripts_or_load_anything(
    visitor: Visitor, worker: ScriptedWorker, whole: bool
) -> None:
    page = visitor.page
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    worker.say(*([ATTACK] if whole else ATTACK))
    await visitor.open_chat()
    await visitor.say(ATTACK)
    await visitor.wait_for_end()
    prose = visitor.answer.locator(".prose")
    assert await prose.locator("script, img, iframe, svg:not(.icon), [onerror], [onload]").count() == 0
    hrefs = await prose.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    assert not any(href and href.lower().startswith("javascript") for href in hrefs)
    assert "https://tracker.example/pixel.png" in hrefs  # a link, for the reader to decide
    await expect(prose).to_contain_text("<script>window.hacked = 1</script>")
    for link in await prose.locator("a:not([href])").all():
        await link.click()
    assert await page.evaluate("window.hacked") is None
    assert [url for url in requests if not url.startswith(visitor.url)] == []


async def test_stop_button_and_escape_keep_the_partial_answer(visitor: Visitor, worker: ScriptedWorker) -> None:
    page = visitor.page
    worker.say("one ", "two ", "three", hold_after=2)
    await visitor.open_chat()
    await visitor.say("Count")
    await visitor.wait_for_text("one two")
    await page.click("#stop")
    await visitor.wait_for_end()
    await expect(visitor.answer).to_contain_text("You stopped this answer.")
    await worker.until(lambda it: len(it.aborted) == 1)
    await visitor.say("Again")
    await expect(page.locator(".message.assistant")).to_have_count(2)
    await visitor.wait_for_text("one two")
    await page.keyboard.press("Escape")
    await visitor.wait_for_end()
    await worker.until(lambda it: len(it.aborted) == 2)
    async for answer in Message.objects.filter(role="assistant"):
        assert (answer.content, answer.status) == ("one two ", MessageStatus.STOPPED)


async def test_reload_in_the_middle_continues_the_answer(visitor: Visitor, worker: ScriptedWorker) -> None:
    worker.say("one ", "two ", "three", hold_after=2)
    await visitor.open_chat()
    await visitor.say("Count")
    await visitor.wait_for_text("one two")
    await visitor.page.reload()
    await visitor.wait_for_text("one two")
    await expect(visitor.page.locator("#stop")).to_be_visible()
    worker.release()
    await visitor.wait_for_text("one two three")
    await visitor.wait_for_end()
    assert len(worker.generates) == 1


async def test_lost_connection_is_told_and_made_good(visitor: Visitor, worker: ScriptedWorker) -> None:
    page = visitor.page
    await page.add_init_script(
        "window.WebSocket = class extends WebSocket { constructor(url) { super(url); window.socket = this; } };"
    )
    worker.say("one ", "two ", "three", hold_after=2)
    await visitor.open_chat()
    await visitor.say("Count")
    await visitor.wait_for_text("one two")
    await page.evaluate("socket.close()")
    await expect(page.locator("#notice")).to_contain_text("Connection lost")
    worker.release()
    await visitor.wait_for_text("one two three")
    await visitor.wait_for_end()
    await expect(page.locator("#notice")).to_be_hidden()
    assert await page.locator(".message").count() == 2


async def test_failure_is_shown_with_a_way_to_try_again(visitor: Visitor, worker: ScriptedWorker) -> None:
    worker.say(fail="invalid_request", fail_message="This prompt is not allowed.")
    await visitor.open_chat()
    await visitor.say("Hi")
    await expect(visitor.answer.locator(".ending.bad")).to_contain_text("This prompt is not allowed.")
    worker.say("Fine.")
    await visitor.answer.get_by_role("button", name="Try again").click()
    await visitor.wait_for_text("Fine.")
    assert await visitor.page.locator(".message").count() == 2


async def test_loading_and_queue_are_told(visitor: Visitor, worker: ScriptedWorker) -> None:
    worker.set_loading(0.42, "weights")
    worker.step_s = 0.3
    worker.say("now", queue_positions=(3, 2, 1))
    await visitor.open_chat()
    await visitor.say("Hi")
    waiting = visitor.answer.locator(".waiting")
    await expect(waiting).to_contain_text("Loading the model… 42 %")
    worker.set_ready()
    await expect(waiting).to_contain_text("ahead of you")
    await visitor.wait_for_text("now")
    await expect(waiting).to_be_hidden()


async def test_enter_sends_unless_shift_or_an_input_method_holds_it(visitor: Visitor, worker: ScriptedWorker) -> None:
    page = visitor.page
    await visitor.open_chat()
    await page.fill("#composer-text", "one")
    await page.press("#composer-text", "Shift+Enter")
    await page.locator("#composer-text").press_sequentially("two")
    await page.locator("#composer-text").evaluate(
        "field => field.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"
    )
    assert await page.input_value("#composer-text") == "one\ntwo"
    await page.press("#composer-text", "Enter")
    await visitor.wait_for_end()
    await expect(page.locator(".message.user .text")).to_have_text("one\ntwo", use_inner_text=True)


async def test_settings_reach_the_model_and_are_kept(visitor: Visitor, worker: ScriptedWorker) -> None:
    page = visitor.page
    await visitor.open_chat()
    await page.click("#open-settings")
    await page.fill("#system-prompt", "Be brief.")
    await page.fill("#temperature", "0.3")
    await page.fill("#max-tokens", "9")
    await page.get_by_role("button", name="Done").click()
    await visitor.say("Hi")
    await visitor.wait_for_end()
    await visitor.wait_for_text("Hello, world!")
    sent = worker.generates[0]
    assert sent.messages is not None
    assert sent.messages[0] == {"role": "system", "content": "Be brief."}
    assert (sent.sampling.temperature, sent.sampling.max_tokens) == (0.3, 9)
    await page.reload()
    assert await page.input_value("#system-prompt") == "Be brief."
    assert await page.input_value("#temperature") == "0.3"


async def test_conversation_is_renamed_and_deleted(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.open_chat()
    await visitor.say("Old name")
    await visitor.wait_for_text("Hello, world!")
    await page.locator("#conversations .more").click()
    await page.fill("#conversation-dialog [name=title]", "New <b>name</b>")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator(".conversation")).to_have_text("New <b>name</b>")
    assert (await Conversation.objects.aget()).title == "New <b>name</b>"
    await page.locator("#conversations .more").click()
    delete = page.locator("#conversation-dialog [name=delete]")
    await delete.click()
    await expect(page.locator("#conversation-dialog .field-error")).to_contain_text("New <b>name</b>")
    assert await Conversation.objects.acount() == 1
    await delete.click()
    await expect(page.locator("#welcome")).to_be_visible()
    assert await Conversation.objects.acount() == 0


async def test_view_follows_the_answer_until_the_reader_scrolls_up(visitor: Visitor, worker: ScriptedWorker) -> None:
    page = visitor.page
    lines = [f"line {number}\n\n" for number in range(80)]
    worker.say(*lines, hold_after=60)
    await visitor.open_chat()
    await visitor.say("Go")
    await expect(visitor.answer).to_contain_text("line 59")
    distance = "(({scrollHeight, scrollTop, clientHeight}) => scrollHeight - scrollTop - clientHeight)(scroller)"
    assert await page.evaluate(distance) < 5
    await page.mouse.move(700, 300)
    await page.mouse.wheel(0, -600)
    await expect(page.locator("#jump")).to_be_visible()
    top = await page.evaluate("document.getElementById('scroller').scrollTop")
    worker.release()
    await expect(visitor.answer).to_contain_text("line 79")
    assert await page.evaluate("document.getElementById('scroller').scrollTop") == top
    await page.click("#jump")
    assert await page.evaluate(distance) < 5
    await expect(page.locator("#jump")).to_be_hidden()


async def test_phone_has_everything_without_sideways_scrolling(
    browser: Browser, server: str, cookie: str, worker: ScriptedWorker
) -> None:
    visitor = await open_window(browser, server, cookie, viewport=PHONE, has_touch=True, is_mobile=True)
    page = visitor.page
    worker.say(MARKDOWN, "x" * 300, "\n\n```\n", "y" * 300, "\n```\n")
    await visitor.open_chat()
    await expect(page.locator("#sidebar")).not_to_be_in_viewport()
    await page.fill("#composer-text", "Hi")
    await page.press("#composer-text", "Enter")  # a new line on a phone
    assert await page.locator(".message").count() == 0
    await page.tap("#send")
    await visitor.wait_for_end()
    await expect(visitor.answer.locator("pre").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    await page.tap("[data-open-sidebar]")
    await expect(page.locator("#sidebar")).to_be_in_viewport(ratio=0.99)
    await expect(page.locator(".conversation")).to_have_text("Hi")
    await page.touchscreen.tap(PHONE["width"] - 10, 300)  # beside the drawer
    await expect(page.locator("#sidebar")).not_to_be_in_viewport()
    assert visitor.complaints == []


async def test_theme_is_chosen_and_kept(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.open_chat()
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.click(".account summary")
    await page.get_by_role("button", name="Light or dark").click()
    dark = await page.evaluate(background)
    assert dark != light
    await page.reload()
    assert await page.evaluate(background) == dark


async def test_a_session_that_ended_leads_to_the_login(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.open_chat()
    await page.click(".account summary")
    await page.get_by_role("button", name="Log out").click()
    await expect(page).to_have_url(re.compile("/login"))
    await page.go_back()
    await expect(page).to_have_url(re.compile("/login"))


async def test_answers_do_not_outlive_the_tests() -> None:
    assert runs._runs == {}
