"""The chat page's WebSocket: reads what the page asks for, and sends it the answer it is looking at.

The consumer owns no generation: closing the socket ends only the following of an answer, never the answer.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from channels.generic.websocket import AsyncWebsocketConsumer

from apps.accounts.auth import caller_for_user
from apps.accounts.caller import Caller
from apps.chat import runs, turns
from apps.chat.models import MessageStatus
from apps.chat.turns import Turn
from apps.chat.wire import (
    MAX_FRAME_CHARS,
    FromPage,
    Models,
    Open,
    Refused,
    Regenerate,
    Send,
    Shown,
    Stop,
    ToPage,
    decode_from_page,
    encode_to_page,
)
from apps.core.db import run_db
from apps.core.errors import InvalidRequest, PayloadTooLarge, ServiceError
from apps.registry import directory
from apps.registry.models import ReplicaState

logger = logging.getLogger(__name__)

CLOSE_NOT_LOGGED_IN = 4401  # the page goes to the login page
_BEST_FIRST = [ReplicaState.READY, ReplicaState.LOADING, ReplicaState.STARTING, ReplicaState.REQUESTED]


class ChatConsumer(AsyncWebsocketConsumer):
    """One page of one logged-in person."""

    _following: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self.accept()
        user = self.scope["user"]
        if not user.is_authenticated:
            await self.close(code=CLOSE_NOT_LOGGED_IN)
            return
        self._user_id: int = user.pk

    async def disconnect(self, code: int) -> None:
        await self._stop_following()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        kind = ""
        try:
            message = _decode(text_data)
            kind = type(message).__name__.lower()
            await self._answer(message)
        except ServiceError as error:
            await self._tell(Refused(error.message, error.code, kind))
        except Exception:
            logger.exception("chat message %s failed", kind)
            await self._tell(Refused("Something went wrong on the server.", "internal_error", kind))

    async def _answer(self, message: FromPage) -> None:
        match message:
            case Open():
                await self._tell(await _list_models(await run_db(_load_caller, self._user_id)))
                if message.conversation is not None:
                    await self._show(
                        await run_db(
                            turns.show_conversation, user_id=self._user_id, conversation_id=message.conversation
                        )
                    )
            case Send():
                await self._write(turns.begin_turn, message, content=message.content)
            case Regenerate():
                await self._write(turns.begin_again, message)
            case Stop():
                await runs.stop(user_id=self._user_id, conversation_id=message.conversation)

    async def _write(self, begin: Callable[..., Turn], message: Send | Regenerate, **fields: str) -> None:
        """Start an answer and show it. What is shown was read before the start: the page sees it grow from nothing."""
        turn, shown = await run_db(
            _begin_and_show,
            begin,
            user_id=self._user_id,
            conversation_id=message.conversation,
            settings=message.settings,
            **fields,
        )
        runs.start(turn)
        await self._show(shown)

    async def _show(self, shown: Shown) -> None:
        await self._stop_following()
        await self._tell(shown)
        for message in shown.messages:
            if message.status == MessageStatus.STREAMING:
                self._following = asyncio.create_task(self._follow(message.id))

    async def _follow(self, message_id: int) -> None:
        try:
            async with aclosing(runs.follow(message_id)) as messages:
                async for message in messages:
                    await self._tell(message)
        except Exception:  # a task's boundary: the page must not wait for an answer that nobody brings
            logger.exception("chat answer %s could not be followed", message_id)
            await self.close(code=1011)  # the page connects again and asks for the conversation

    async def _stop_following(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            self._following = None

    async def _tell(self, message: ToPage) -> None:
        with suppress(OSError):  # the page has gone, as ASGI says it: `disconnect` follows
            await self.send(text_data=encode_to_page(message))


def _decode(text: str | None) -> FromPage:
    """Raises ServiceError."""
    if text is None:
        raise InvalidRequest("Messages are JSON text.")
    if len(text) > MAX_FRAME_CHARS:
        raise PayloadTooLarge("This message is too long.")
    try:
        return decode_from_page(text)
    except msgspec.DecodeError as error:
        raise InvalidRequest(str(error)) from None


def _begin_and_show(begin: Callable[..., Turn], *, user_id: int, **fields: Any) -> tuple[Turn, Shown]:
    turn = begin(user_id=user_id, **fields)
    return turn, turns.show_conversation(user_id=user_id, conversation_id=turn.conversation_id)


def _load_caller(user_id: int) -> Caller:
    return caller_for_user(turns.load_user(user_id))


async def _list_models(caller: Caller) -> Models:
    models = []
    for spec in await directory.list_models(caller):
        if spec.task not in (None, "generate"):
            continue
        states = {replica.state for replica in await directory.get_replicas(spec.id)}
        state = next((state for state in _BEST_FIRST if state in states), None)
        models.append({"name": spec.name, "state": str(state.value) if state else "asleep"})
    return Models(models)
