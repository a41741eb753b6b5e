"""What happens to a conversation in the database: turns begun, answers saved, titles, deletion.

Blocking ORM code without an event loop: the consumer reaches it through `run_db`, the views directly.
"""

import dataclasses
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.accounts.auth import caller_for_user
from apps.accounts.models import User
from apps.chat.access import access_conversation, list_conversations
from apps.chat.models import MAX_TITLE_CHARS, Conversation, Message, MessageRole, MessageStatus
from apps.chat.wire import MessageView, Shown, TurnSettings
from apps.core.errors import AuthenticationFailed, Conflict, InvalidRequest
from apps.core.ids import new_chat_completion_id
from apps.inference.requests import GenerationRequest

MAX_FIRST_TITLE_CHARS = 60  # of a title made from the first message
STALE_AFTER = timedelta(seconds=15)  # several times the interval at which a run saves


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer that is to be written: its row exists, and nobody else may write one in this conversation."""

    conversation_id: str
    message_id: int
    model_name: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an answer ended, as it is saved and shown."""

    status: MessageStatus
    content: str
    reasoning: str
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def load_user(user_id: int) -> User:
    """The person as of now. Raises AuthenticationFailed once the account is disabled or gone."""
    try:
        return User.objects.get(pk=user_id, is_active=True)
    except User.DoesNotExist:
        raise AuthenticationFailed("This account is no longer active.") from None


def begin_turn(*, user_id: int, conversation_id: str | None, content: str, settings: TurnSettings) -> Turn:
    """Appends the person's message, starting a conversation where none is named, and opens its answer.

    Raises InvalidRequest for an empty message, NotFound for another's conversation and Conflict
    while an answer is being written in it.
    """
    if not content.strip():
        raise InvalidRequest("Write a message first.", param="content")
    user = load_user(user_id)
    content = _make_storable(content)
    with transaction.atomic():
        if conversation_id is None:
            conversation = Conversation(user=user, team_id=caller_for_user(user).team_id, title=_make_title(content))
        else:
            conversation = _lock(user, conversation_id)
        _apply(conversation, settings)
        Message.objects.create(conversation=conversation, role=MessageRole.USER, content=content)
        return _open_answer(user, conversation)


def begin_again(*, user_id: int, conversation_id: str, settings: TurnSettings) -> Turn:
    """Removes the last answer, if there is one, and opens a new one. Raises as `begin_turn` does."""
    user = load_user(user_id)
    with transaction.atomic():
        conversation = _lock(user, conversation_id)
        last = conversation.messages.last()
        if last is not None and last.role == MessageRole.ASSISTANT:
            last.delete()
            last = conversation.messages.last()
        if last is None:
            raise InvalidRequest("There is no message to answer.")
        _apply(conversation, settings)
        return _open_answer(user, conversation)


def _lock(user: User, conversation_id: str) -> Conversation:
    """The conversation, held until the transaction ends, with no answer being written in it."""
    conversation = access_conversation(user, conversation_id)
    Conversation.objects.select_for_update().get(pk=conversation.pk)
    running = conversation.messages.filter(status=MessageStatus.STREAMING).first()
    if running is not None and not _settle_if_stale(running):
        raise Conflict("An answer is still being written.")
    return conversation


def _apply(conversation: Conversation, settings: TurnSettings) -> None:
    conversation.model_name = settings.model
    conversation.system_prompt = _make_storable(settings.system_prompt.strip())
    conversation.temperature = settings.temperature
    conversation.max_tokens = settings.max_tokens
    conversation.updated_at = timezone.now()
    conversation.save()


def _open_answer(user: User, conversation: Conversation) -> Turn:
    messages = build_prompt(conversation)
    answer = Message.objects.create(
        conversation=conversation,
        role=MessageRole.ASSISTANT,
        status=MessageStatus.STREAMING,
        model_name=conversation.model_name,
    )
    sampling = {"temperature": conversation.temperature, "max_tokens": conversation.max_tokens}
    request = GenerationRequest(
        id=new_chat_completion_id(),
        caller=caller_for_user(user),
        model=conversation.model_name,
        endpoint="chat",
        kind="chat",
        messages=messages,
        sampling={name: value for name, value in sampling.items() if value is not None},
        stream=True,
    )
    return Turn(str(conversation.pk), answer.pk, conversation.model_name, request)


def build_prompt(conversation: Conversation) -> list[dict[str, Any]]:
    """The conversation in OpenAI's shape, roles alternating as chat templates demand.

    An answer without text says nothing, so it is left out; the two messages around it become one.
    """
    messages: list[dict[str, Any]] = []
    if conversation.system_prompt:
        messages.append({"role": "system", "content": conversation.system_prompt})
    for role, content in conversation.messages.exclude(content="").values_list("role", "content"):
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content
        else:
            messages.append({"role": role, "content": content})
    return messages


def _make_title(content: str) -> str:
    text = " ".join(content.split())
    return text if len(text) <= MAX_FIRST_TITLE_CHARS else text[: MAX_FIRST_TITLE_CHARS - 1].rstrip() + "…"


def _make_storable(text: str) -> str:
    """PostgreSQL stores every character but NUL, which a model may well write."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def save_progress(message_id: int, *, content: str, reasoning: str) -> bool:
    """Saves what there is so far. False: somebody ended or deleted the answer, and it must not be written on."""
    return bool(
        Message.objects.filter(pk=message_id, status=MessageStatus.STREAMING).update(
            content=_make_storable(content), reasoning=_make_storable(reasoning), heartbeat_at=timezone.now()
        )
    )


def finish(message_id: int, outcome: Outcome) -> None:
    """Saves the end of an answer, unless it was deleted meanwhile."""
    fields = dataclasses.asdict(outcome)
    fields |= {name: _make_storable(fields[name]) for name in ("content", "reasoning")}
    Message.objects.filter(pk=message_id).update(heartbeat_at=timezone.now(), **fields)


def find_running(*, user_id: int, conversation_id: str) -> int | None:
    """The answer being written in the conversation, if one is. Raises NotFound for another's conversation."""
    conversation = access_conversation(load_user(user_id), conversation_id)
    return conversation.messages.filter(status=MessageStatus.STREAMING).values_list("pk", flat=True).first()


def mark_stopped(message_id: int) -> None:
    """Asks the process that writes the answer to stop: it notices when it saves next."""
    Message.objects.filter(pk=message_id, status=MessageStatus.STREAMING).update(status=MessageStatus.STOPPED)


def look_at_message(message_id: int) -> MessageView | None:
    """The answer as it stands; one whose process is gone is settled as interrupted first. None: deleted."""
    message = Message.objects.filter(pk=message_id).first()
    if message is None:
        return None
    _settle_if_stale(message)
    return view_message(message)


def _settle_if_stale(message: Message) -> bool:
    """Whether the answer is at an end, if need be by ending it because nobody writes it any more."""
    if message.status == MessageStatus.STREAMING and message.heartbeat_at < timezone.now() - STALE_AFTER:
        Message.objects.filter(pk=message.pk, status=MessageStatus.STREAMING, heartbeat_at=message.heartbeat_at).update(
            status=MessageStatus.INTERRUPTED
        )
        message.refresh_from_db()
    return message.status != MessageStatus.STREAMING


def show_conversation(*, user_id: int, conversation_id: str) -> Shown:
    """The whole conversation. Raises NotFound for another's."""
    conversation = access_conversation(load_user(user_id), conversation_id)
    messages = list(conversation.messages.all())
    for message in messages:
        if not _settle_if_stale(message):
            message.content = message.reasoning = ""
    return Shown(str(conversation.pk), conversation.title, [view_message(message) for message in messages])


def view_message(message: Message) -> MessageView:
    """The message as the page shows it."""
    return MessageView(
        id=message.pk,
        role=message.role,
        content=message.content,
        reasoning=message.reasoning,
        status=message.status,
        error=message.error,
        finish_reason=message.finish_reason,
        model=message.model_name,
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
    )


def rename_conversation(user: User, conversation_id: uuid.UUID, title: str) -> None:
    """Raises NotFound for another's and InvalidRequest for an empty title."""
    conversation = access_conversation(user, conversation_id)
    title = _make_storable(" ".join(title.split()))
    if not 1 <= len(title) <= MAX_TITLE_CHARS:
        raise InvalidRequest(f"A title has 1 to {MAX_TITLE_CHARS} characters.", param="title")
    list_conversations(user).filter(pk=conversation.pk).update(title=title)


def delete_conversation(user: User, conversation_id: uuid.UUID) -> None:
    """Raises NotFound for another's. An answer being written ends when its process saves next."""
    access_conversation(user, conversation_id).delete()
