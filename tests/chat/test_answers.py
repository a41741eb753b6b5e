"""The chat over its socket: answers, their memory, stopping, writing again, and what is refused."""

from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from apps.accounts.models import User
from apps.chat.models import Conversation, Message, MessageStatus
from apps.registry.models import HostedModel
from apps.usage.models import UsageRecord, UsageStatus
from apps.usage.recorder import recorder
from gpu_worker.protocol import Delta
from tests.chat.page import Page, join
from tests.factories import make_replica
from tests.scripted_worker import Answer, ScriptedWorker

pytestmark = pytest.mark.usefixtures("chat")


async def load_answer() -> Message:
    """The last message, as the database has it."""
    message = await Message.objects.order_by("pk").alast()
    assert message is not None
    return message


async def test_answer_streams_and_is_saved(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("Hel", "lo ", "there")
    async with Page(cookie) as page:
        await page.ask("send", content="Hi,  how are\nyou?")
        shown = await page.receive("conversation")
        assert shown["title"] == "Hi, how are you?"
        assert [(message["role"], message["content"]) for message in shown["messages"]] == [
            ("user", "Hi,  how are\nyou?"),
            ("assistant", ""),
        ]
        messages = await page.receive_until("done")
    assert join(messages) == "Hello there"
    done = messages[-1]["message"]
    assert (done["content"], done["status"], done["finish_reason"]) == ("Hello there", "complete", "stop")
    assert (done["prompt_tokens"], done["completion_tokens"], done["model"]) == (5, 3, "scripted")
    answer = await load_answer()
    assert (answer.content, answer.status, answer.completion_tokens) == ("Hello there", MessageStatus.COMPLETE, 3)


async def test_characters_that_postgresql_cannot_store_are_replaced(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("a\0", "b")
    async with Page(cookie) as page:
        page.settings.update(system_prompt="Be\0brief.")
        await page.ask("send", content="Hi\0you")
        await page.receive_until("done")
    assert (await load_answer()).content == "a\ufffdb"
    conversation = await Conversation.objects.aget()
    question = await conversation.messages.afirst()
    assert question is not None
    assert (conversation.title, conversation.system_prompt) == ("Hi\ufffdyou", "Be\ufffdbrief.")
    assert question.content == "Hi\ufffdyou"


async def test_answer_is_settled_in_the_ledger(worker: ScriptedWorker, cookie: str, user: User) -> None:
    worker.say("a", "b")
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        await page.receive_until("done")
    assert recorder.flush()
    record = await UsageRecord.objects.select_related("user", "team").aget()
    assert (record.user, record.endpoint, record.status, record.completion_tokens) == (user, "chat", UsageStatus.OK, 2)
    assert record.team is not None
    assert record.team.name == "Research"


async def test_history_system_prompt_and_parameters_reach_the_model(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("First.")
    async with Page(cookie) as page:
        page.settings.update(system_prompt=" Be brief. ", temperature=0.25, max_tokens=7)
        await page.ask("send", content="One")
        conversation = (await page.receive("conversation"))["id"]
        await page.receive_until("done")
        await page.ask("send", content="Two", conversation=conversation)
        await page.receive_until("done")
    request = worker.generates[-1]
    assert request.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "First."},
        {"role": "user", "content": "Two"},
    ]
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.25, 7)
    saved = await Conversation.objects.aget()
    assert (saved.system_prompt, saved.temperature, saved.max_tokens) == ("Be brief.", 0.25, 7)


async def test_reasoning_is_kept_apart_from_the_answer(worker: ScriptedWorker, cookie: str) -> None:
    worker.reply(Answer(deltas=(Delta("", reasoning="Let me see."), Delta("", text="42"))))
    async with Page(cookie) as page:
        await page.ask("send", content="What is it?")
        messages = await page.receive_until("done")
    assert join(messages) == "42"
    assert "".join(message.get("reasoning", "") for message in messages) == "Let me see."
    answer = await load_answer()
    assert (answer.content, answer.reasoning) == ("42", "Let me see.")


async def test_place_in_the_queue_is_told(worker: ScriptedWorker, cookie: str) -> None:
    worker.step_s = 0.1  # each position is a step of its own
    worker.say("now", queue_positions=(2, 1))
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        messages = await page.receive_until("done")
    waits = [message for message in messages if message["type"] == "waiting" and message["stage"] == "queued"]
    assert [message["queue_position"] for message in waits] == [2, 1]


async def test_loading_is_told_with_its_progress(worker: ScriptedWorker, cookie: str) -> None:
    worker.set_loading(0.42, "weights")
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        await page.receive("conversation")
        waiting = await page.receive("waiting")
        while waiting["progress"] != 0.42:  # before the link is up, the progress is that of the last reconciliation
            waiting = await page.receive("waiting")
        assert waiting["stage"] == "loading"
        worker.set_ready()
        await page.receive_until("done")


async def test_stop_aborts_at_the_worker_and_keeps_what_there_is(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("one ", "two ", "three", hold_after=2)
    async with Page(cookie) as page:
        await page.ask("send", content="Count")
        conversation = (await page.receive("conversation"))["id"]
        await page.receive_text("one two ")
        await page.ask("stop", conversation=conversation)
        done = await page.receive("done")
    assert (done["message"]["content"], done["message"]["status"]) == ("one two ", "stopped")
    await worker.until(lambda it: len(it.aborted) == 1)
    answer = await load_answer()
    assert (answer.content, answer.status, answer.completion_tokens) == ("one two ", MessageStatus.STOPPED, 2)
    async for record in UsageRecord.objects.all():
        assert record.status in (UsageStatus.OPEN, UsageStatus.CANCELLED)


async def test_stop_without_an_answer_is_harmless(cookie: str) -> None:
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        conversation = (await page.receive("conversation"))["id"]
        await page.receive_until("done")
        await page.ask("stop", conversation=conversation)
        await page.ask("open", conversation=conversation)
        await page.receive("models")
        shown = await page.receive("conversation")
    assert shown["messages"][-1]["status"] == "complete"


async def test_writing_again_replaces_the_last_answer(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("bad")
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        conversation = (await page.receive("conversation"))["id"]
        await page.receive_until("done")
        worker.say("good")
        await page.ask("regenerate", conversation=conversation)
        await page.receive_until("done")
    contents = [message.content async for message in Message.objects.order_by("pk")]
    assert contents == ["Hi", "good"]
    assert worker.generates[-1].messages == [{"role": "user", "content": "Hi"}]


async def test_failure_is_shown_and_can_be_tried_again(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("part ", "rest", fail="invalid_request", fail_after=1, fail_message="This prompt is not allowed.")
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        conversation = (await page.receive("conversation"))["id"]
        failed = (await page.receive_until("done"))[-1]["message"]
        assert (failed["status"], failed["error"]) == ("error", "This prompt is not allowed.")
        assert failed["content"] == "part "
        worker.say("fine")
        await page.ask("regenerate", conversation=conversation)
        done = (await page.receive_until("done"))[-1]["message"]
    assert (done["content"], done["status"]) == ("fine", "complete")


async def test_unknown_model_is_an_error_of_the_answer(cookie: str) -> None:
    async with Page(cookie, model="nonsense") as page:
        await page.ask("send", content="Hi")
        failed = (await page.receive_until("done"))[-1]["message"]
    assert failed["status"] == "error"
    assert "nonsense" in failed["error"]


async def test_message_after_a_failure_is_joined_to_the_unanswered_one(worker: ScriptedWorker, cookie: str) -> None:
    worker.say(fail="invalid_request")
    async with Page(cookie) as page:
        await page.ask("send", content="One")
        conversation = (await page.receive("conversation"))["id"]
        await page.receive_until("done")
        worker.say("Both.")
        await page.ask("send", content="Two", conversation=conversation)
        await page.receive_until("done")
    assert worker.generates[-1].messages == [{"role": "user", "content": "One\n\nTwo"}]  # roles must alternate


async def test_second_message_during_an_answer_is_refused(worker: ScriptedWorker, cookie: str) -> None:
    worker.say("one", "two", hold_after=1)
    async with Page(cookie) as page:
        await page.ask("send", content="Hi")
        conversation = (await page.receive("conversation"))["id"]
        await page.receive_text("one")
        for kind, fields in (("send", {"content": "And?"}), ("regenerate", {})):
            await page.ask(kind, conversation=conversation, **fields)
            refused = await page.receive("error")
            assert (refused["code"], refused["request"]) == ("conflict", kind)
        worker.release()
        await page.receive_until("done")
    assert await Message.objects.acount() == 2


@pytest.mark.parametrize(
    "message",
    [
        {"type": "send", "content": "  \n", "settings": {"model": "scripted"}},
        {"type": "send", "content": "Hi"},
        {"type": "send", "content": "Hi", "settings": {"model": ""}},
        {"type": "send", "content": "Hi", "settings": {"model": "scripted", "temperature": 2.5}},
        {"type": "send", "content": "Hi", "settings": {"model": "scripted", "max_tokens": 0}},
        {"type": "send", "content": "Hi", "settings": {"model": "scripted", "top_p": 1}},
        {"type": "send", "content": "x" * 200_001, "settings": {"model": "scripted"}},
        {"type": "send", "content": "x" * 900_000, "settings": {"model": "scripted"}},
        {"type": "dance"},
        [],
    ],
)
async def test_invalid_message_is_refused_and_the_socket_lives(cookie: str, message: Any) -> None:
    async with Page(cookie) as page:
        await page.socket.send_json_to(message)
        await page.receive("error")
        await page.ask("send", content="Hi")
        await page.receive_until("done")
    assert await Message.objects.acount() == 2


async def test_models_are_listed_with_their_state(scripted_model: HostedModel, cookie: str) -> None:
    await HostedModel.objects.acreate(name="sleepy", source="sleepy")
    hidden = await HostedModel.objects.acreate(name="hidden", source="hidden")
    await hidden.teams.acreate(name="Others", slug="others")
    embedder = await HostedModel.objects.acreate(name="embedder", source="embedder")  # not for chats
    info = {"max_model_len": 8, "task": "embed"}
    await sync_to_async(make_replica)(embedder, state="stopped", info=info, ready_at=timezone.now())
    async with Page(cookie) as page:
        await page.ask("open")
        listed = await page.receive("models")
    assert listed["models"] == [{"name": "scripted", "state": "ready"}, {"name": "sleepy", "state": "asleep"}]
