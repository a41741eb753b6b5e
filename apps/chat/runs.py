"""Answers being written. A run belongs to this process, not to the socket that asked: a page may go and come back.

Tokens travel from `generate()` through the run's memory to its followers, each at its own pace; the database
sees the text every two seconds and at the end. Another process, or a later one, follows an answer through its row.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from apps.chat import turns
from apps.chat.models import MessageRole, MessageStatus
from apps.chat.turns import Outcome, Turn
from apps.chat.wire import Added, Done, MessageView, ToPage, Waiting
from apps.core.db import run_db
from apps.core.errors import ServiceError
from apps.inference import events
from apps.inference.events import Event
from apps.inference.runs import Interrupted, Run
from gpu_worker.protocol import Delta, Finished, Started

POLL_INTERVAL_S = 1.0

_runs: dict[int, "ChatRun"] = {}  # message id -> the run that writes it, in this process


class ChatRun(Run):
    """One answer being written. Each beat saves its text: a killed process loses what came since."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._text = ""
        self._reasoning = ""
        self._waiting: Waiting | None = None
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._finish_reason = ""
        self._stopped = False  # by the user; a cancellation without it is the server's shutdown
        self._final: MessageView | None = None
        self._followers: set[asyncio.Event] = set()
        super().__init__(turn.request)

    def stop(self) -> None:
        """Ends generation at the worker; what there is of the answer is kept. Harmless when it has ended."""
        self._stopped = True
        self.cancel()

    async def follow(self) -> AsyncGenerator[ToPage, None]:
        """Everything written so far, then every change until the end. A slow reader gets larger pieces, not more."""
        changed = asyncio.Event()
        self._followers.add(changed)
        num_text = num_reasoning = 0
        told: Waiting | None = None
        try:
            while True:
                changed.clear()
                final, text, reasoning = self._final, self._text, self._reasoning
                if self._waiting is not None and self._waiting != told:
                    told = self._waiting
                    yield told
                if len(text) > num_text or len(reasoning) > num_reasoning:
                    yield Added(self.turn.message_id, text[num_text:], reasoning[num_reasoning:])
                    num_text, num_reasoning = len(text), len(reasoning)
                if final is not None:
                    yield Done(final)
                    return
                await changed.wait()
        finally:
            self._followers.discard(changed)

    async def take(self, event: Event) -> None:
        match event:
            case events.Waiting():
                self._waiting = Waiting(
                    self.turn.message_id, event.stage, progress=event.progress, queue_position=event.queue_position
                )
            case Started():
                self._prompt_tokens = event.prompt_tokens
                self._waiting = Waiting(self.turn.message_id, "started")
            case Delta():
                self._waiting = None
                self._text += event.text
                self._reasoning += event.reasoning
                self._completion_tokens += len(event.token_ids)
            case Finished():
                self._finish_reason = event.reason
        self._wake()

    async def beat(self) -> bool:
        goes_on = await run_db(turns.save_progress, self.turn.message_id, content=self._text, reasoning=self._reasoning)
        self._stopped = self._stopped or not goes_on
        return goes_on

    async def end(self, error: ServiceError | None) -> None:
        status, message = self._describe_end(error)
        outcome = Outcome(
            status=status,
            content=self._text,
            reasoning=self._reasoning,
            error=message,
            finish_reason=self._finish_reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )
        try:
            await run_db(turns.finish, self.turn.message_id, outcome)
        finally:
            del _runs[self.turn.message_id]
            self._final = self._view(outcome)
            self._wake()

    def _describe_end(self, error: ServiceError | None) -> tuple[MessageStatus, str]:
        match error:
            case None:
                return MessageStatus.COMPLETE, ""
            case Interrupted():
                return MessageStatus.STOPPED if self._stopped else MessageStatus.INTERRUPTED, ""
        return MessageStatus.ERROR, error.message

    def _wake(self) -> None:
        for changed in self._followers:
            changed.set()

    def _view(self, outcome: Outcome) -> MessageView:
        return MessageView(
            id=self.turn.message_id,
            role=MessageRole.ASSISTANT,
            content=outcome.content,
            reasoning=outcome.reasoning,
            status=outcome.status,
            error=outcome.error,
            finish_reason=outcome.finish_reason,
            model=self.turn.model_name,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
        )


def start(turn: Turn) -> ChatRun:
    """Begins to write the turn's answer on the running loop. Its end is saved whoever follows it."""
    run = _runs[turn.message_id] = ChatRun(turn)
    return run


async def stop(*, user_id: int, conversation_id: str) -> None:
    """Stops the answer being written in this conversation, wherever it is written. Raises NotFound for another's."""
    message_id = await run_db(turns.find_running, user_id=user_id, conversation_id=conversation_id)
    if message_id is None:
        return
    if (run := _runs.get(message_id)) is not None:
        run.stop()
    else:
        await run_db(turns.mark_stopped, message_id)


async def follow(message_id: int) -> AsyncGenerator[ToPage, None]:
    """The answer from its first character to its end, whether this process writes it or another."""
    run = _runs.get(message_id)
    source = run.follow() if run is not None else _follow_row(message_id)
    async with aclosing(source) as messages:
        async for message in messages:
            yield message


async def _follow_row(message_id: int) -> AsyncGenerator[ToPage, None]:
    num_text = num_reasoning = 0
    while (view := await run_db(turns.look_at_message, message_id)) is not None:
        if len(view.content) > num_text or len(view.reasoning) > num_reasoning:
            yield Added(message_id, view.content[num_text:], view.reasoning[num_reasoning:])
            num_text, num_reasoning = len(view.content), len(view.reasoning)
        if view.status != MessageStatus.STREAMING:
            yield Done(view)
            return
        await asyncio.sleep(POLL_INTERVAL_S)
