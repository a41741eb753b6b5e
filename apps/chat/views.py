"""The chat page itself, and the changes to a conversation that need no stream."""

import uuid

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from apps.accounts.requests import UserRequest
from apps.chat import turns
from apps.chat.access import access_conversation, list_conversations
from apps.chat.models import Conversation
from apps.chat.strings import get_strings
from apps.core.errors import InvalidRequest, NotFound

NUM_LISTED = 200


@require_safe
@login_required
@never_cache
@ensure_csrf_cookie
def show_chat(request: UserRequest, conversation_id: uuid.UUID | None = None) -> HttpResponse:
    """The page, empty or for one conversation, whose messages come over the socket. Another's is a 404."""
    conversation = Conversation(id=None)
    if conversation_id is not None:
        try:
            conversation = access_conversation(request.user, conversation_id)
        except NotFound as error:
            raise Http404(error.message) from None
    page = {
        "conversation": conversation.pk,
        "settings": {
            "model": conversation.model_name,
            "system_prompt": conversation.system_prompt,
            "temperature": conversation.temperature,
            "max_tokens": conversation.max_tokens,
        },
        "strings": get_strings(),
    }
    conversations = list_conversations(request.user).only("id", "title", "updated_at")[:NUM_LISTED]
    context = {"page": page, "conversation": conversation, "conversations": conversations}
    return render(request, "chat/chat.html", context)


@require_POST
@login_required
def rename(request: UserRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """Takes the form field `title`. 204, or 404 for another's conversation and 400 for a title that is none."""
    try:
        turns.rename_conversation(request.user, conversation_id, request.POST.get("title", ""))
    except NotFound as error:
        raise Http404(error.message) from None
    except InvalidRequest as error:
        return HttpResponse(error.message, status=400, content_type="text/plain")
    return HttpResponse(status=204)


@require_POST
@login_required
def delete(request: UserRequest, conversation_id: uuid.UUID) -> HttpResponse:
    """204, or 404 for another's conversation."""
    try:
        turns.delete_conversation(request.user, conversation_id)
    except NotFound as error:
        raise Http404(error.message) from None
    return HttpResponse(status=204)
