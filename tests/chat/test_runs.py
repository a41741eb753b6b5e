"""Answers and the pages that come and go: an answer belongs to the server, not to the socket that asked for it."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apps.accounts.models import Team, User
from apps.chat import runs, turns
from apps.chat.models import Conversation, Message, MessageRole, MessageStatus
from apps.chat.turns import STALE_AFTER, Outcome
from apps.inference.runs import shutdown
from project.asgi import application
from tests.chat.page import WAIT_S, Page, join
from tests.scripted_worker import ScriptedWorker

pytestmark = pytest.mark.usefixtures("chat")


async def begin(page: Page, worker: ScriptedWorker) -> str:
    """Asks for an answer that stops after "one two " until the worker is released. Returns the conversation's id."""
    worker.say("one ", "two ", "three", hold_after=2)
    await page.ask("send", content="Count")
    conversation: str = (await page.receive("conversation"))["id"]
    await page.receive_text("one two ")
    return conversation


async def test_answer_goes_on_without_its_page(worker: ScriptedWorker, cookie: str) -> None:
    async with Page(cookie) as page:
        conversation = await begin(page, worker)
    async with Page(cookie) as page:
        await page.ask("open", conversation=conversation)
        await page.receive("models")
        shown = await page.receive("conversation")
        assert shown["messages"][-1]["status"] == "streaming"
        await page.receive_text("one two ")  # from its first character
        worker.release()
        messages = await page.receive_until("done")
    assert join(messages) == "three"
    assert messages[-1]["message"]["content"] == "one two three"
    assert worker.aborted == []


async def test_answer_that_ended_meanwhile_is_shown_complete(worker: ScriptedWorker, cookie: str) -> None:
    async with Page(cookie) as page:
        conversation = await begin(page, worker)
    (run,) = runs._runs.values()
    worker.release()
    async for _ in run.follow():
        pass
    async with Page(cookie) as page:
        await page.ask("open", conversation=conversation)
        await page.receive("models")
        shown = await page.receive("conversation")
    assert (shown["messages"][-1]["content"], shown["messages"][-1]["status"]) == ("one two three", "complete")


async def test_two_pages_see_the_same_answer(worker: ScriptedWorker, cookie: str) -> None:
    async with Page(cookie) as first, Page(cookie) as second:
        conversation = await begin(first, worker)
        await second.ask("open", conversation=conversation)
        await second.receive_until("conversation")
        await second.receive_text("one two ")
        worker.release()
        for page in (first, second):
            assert (await page.receive_until("done"))[-1]["message"]["content"] == "one two three"


async def test_page_that_leaves_while_it_is_told_is_no_fault(
    worker: ScriptedWorker, cookie: str, caplog: pytest.LogCaptureFixture
) -> None:
    page, left = Page(cookie), asyncio.Event()
    worker.say("one ", "two ", hold_after=1)
    from_page: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    question = json.dumps({"type": "send", "content": "Count", "settings": page.settings})
    from_page.put_nowait({"type": "websocket.connect"})
    from_page.put_nowait({"type": "websocket.receive", "text": question})

    async def send(message: dict[str, Any]) -> None:
        if '"delta"' in message.get("text", ""):
            left.set()
            raise OSError  # what servers raise then, says ASGI

    socket = asyncio.create_task(application(page.socket.scope, from_page.get, send))
    await asyncio.wait_for(left.wait(), WAIT_S)
    from_page.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await asyncio.wait_for(socket, WAIT_S)
    worker.release()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_another_page_can_stop_it(worker: ScriptedWorker, cookie: str) -> None:
    async with Page(cookie) as first, Page(cookie) as second:
        conversation = await begin(first, worker)
        await second.ask("stop", conversation=conversation)
        done = await first.receive("done")
    assert done["message"]["status"] == "stopped"


async def test_looking_at_another_conversation_ends_only_the_following(worker: ScriptedWorker, cookie: str) -> None:
    async with Page(cookie) as page:
        first = await begin(page, worker)
        worker.say("other")
        await page.ask("send", content="Something else")
        other = await page.receive_until("done")
        assert join(other) == "other"
        worker.release()
        await page.ask("open", conversation=first)
        await page.receive("models")
        shown = await page.receive("conversation")
        if shown["messages"][-1]["status"] == "streaming":
            await page.receive_until("done")
    answer = await Message.objects.filter(conversation_id=first).alast()
    assert answer is not None
    assert answer.content == "one two three"


async def test_shutdown_saves_what_there_is_as_interrupted(worker: ScriptedWorker, cookie: str) -> None:
    async with Page(cookie) as page:
        await begin(page, worker)
        await shutdown()
        done = await page.receive("done")
    assert (done["message"]["content"], done["message"]["status"]) == ("one two ", "interrupted")
    answer = await Message.objects.alast()
    assert answer is not None
    assert (answer.content, answer.status) == ("one two ", MessageStatus.INTERRUPTED)
    await worker.until(lambda it: it.num_running == 0)


async def test_text_is_saved_while_it_is_written(
    worker: ScriptedWorker, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.ChatRun, "beat_interval_s", 0.01)
    loop, saved = asyncio.get_running_loop(), asyncio.Event()
    save = turns.save_progress

    def save_and_note(message_id: int, *, content: str, reasoning: str) -> bool:
        goes_on = save(message_id, content=content, reasoning=reasoning)
        if content == "one two ":
            loop.call_soon_threadsafe(saved.set)
        return goes_on

    monkeypatch.setattr(turns, "save_progress", save_and_note)
    async with Page(cookie) as page:
        await begin(page, worker)
        await asyncio.wait_for(saved.wait(), WAIT_S)
        answer = await Message.objects.alast()
    assert answer is not None
    assert (answer.content, answer.status) == ("one two ", MessageStatus.STREAMING)


async def test_deleting_the_conversation_stops_its_answer(
    worker: ScriptedWorker, cookie: str, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.ChatRun, "beat_interval_s", 0.01)
    async with Page(cookie) as page:
        conversation = await begin(page, worker)
        await sync_to_async(turns.delete_conversation)(user, conversation)  # as another process would
        await worker.until(lambda it: len(it.aborted) == 1)
        await page.receive("done")
    assert await Message.objects.acount() == 0


async def test_stop_reaches_an_answer_of_another_process(
    worker: ScriptedWorker, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.ChatRun, "beat_interval_s", 0.01)
    async with Page(cookie) as page:
        await begin(page, worker)
        (message_id,) = runs._runs
        await sync_to_async(turns.mark_stopped)(message_id)  # all that another process can do
        done = await page.receive("done")
    assert (done["message"]["content"], done["message"]["status"]) == ("one two ", "stopped")
    answer = await Message.objects.aget(pk=message_id)
    assert (answer.content, answer.status) == ("one two ", MessageStatus.STOPPED)


@pytest.fixture
def elsewhere(user: User, team: Team) -> Message:
    """An answer that another process is writing."""
    conversation = Conversation.objects.create(user=user, team=team, model_name="scripted")
    Message.objects.create(conversation=conversation, role=MessageRole.USER, content="Hi")
    return Message.objects.create(
        conversation=conversation, role=MessageRole.ASSISTANT, status=MessageStatus.STREAMING, content="so far"
    )


async def test_answer_of_another_process_is_followed_through_its_row(
    elsewhere: Message, cookie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "POLL_INTERVAL_S", 0.01)
    async with Page(cookie) as page:
        await page.ask("open", conversation=str(elsewhere.conversation_id))
        await page.receive_until("conversation")
        await page.receive_text("so far")
        await sync_to_async(turns.save_progress)(elsewhere.pk, content="so far, so", reasoning="")
        await page.receive_text(", so")
        outcome = Outcome(status=MessageStatus.COMPLETE, content="so far, so good", reasoning="")
        await sync_to_async(turns.finish)(elsewhere.pk, outcome)
        messages = await page.receive_until("done")
    assert join(messages) == " good"
    assert messages[-1]["message"]["status"] == "complete"


async def test_answer_whose_process_is_gone_is_interrupted_and_can_be_written_again(
    elsewhere: Message, cookie: str, worker: ScriptedWorker
) -> None:
    conversation = str(elsewhere.conversation_id)
    async with Page(cookie) as page:
        await page.ask("regenerate", conversation=conversation)
        assert (await page.receive("error"))["code"] == "conflict"  # it may still be written
        long_ago = timezone.now() - STALE_AFTER - timedelta(seconds=1)
        await Message.objects.filter(pk=elsewhere.pk).aupdate(heartbeat_at=long_ago)
        await page.ask("open", conversation=conversation)
        await page.receive("models")
        shown = await page.receive("conversation")
        assert (shown["messages"][-1]["status"], shown["messages"][-1]["content"]) == ("interrupted", "so far")
        worker.say("again")
        await page.ask("regenerate", conversation=conversation)
        done = (await page.receive_until("done"))[-1]["message"]
    assert (done["content"], done["status"]) == ("again", "complete")
