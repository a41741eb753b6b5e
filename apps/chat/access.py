"""The only way to fetch a conversation for a person. Blocking: call it through `run_db` on the event loop."""

import uuid

from django.db.models import QuerySet

from apps.accounts.models import User
from apps.chat.models import Conversation
from apps.core.errors import NotFound


def list_conversations(user: User) -> QuerySet[Conversation]:
    """Everything this person may see, latest first."""
    return Conversation.objects.filter(user=user)


def access_conversation(user: User, conversation_id: uuid.UUID | str) -> Conversation:
    """The person's own conversation. Raises NotFound for another's, exactly as for one that does not exist."""
    try:
        return list_conversations(user).get(pk=uuid.UUID(str(conversation_id)))
    except (Conversation.DoesNotExist, ValueError):
        raise NotFound("There is no such conversation.") from None
