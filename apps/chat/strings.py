"""The catalogue of texts that the chat page's scripts show, in the reader's language."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

_STRINGS: dict[str, Promise] = {
    "answering": _("The answer is being written…"),
    "ask_delete": _("Press “Delete” once more to delete “{title}” for good."),
    "copied": _("Copied"),
    "copy_answer": _("Copy answer"),
    "copy_code": _("Copy code"),
    "delete": _("Delete"),
    "failed": _("No answer"),
    "image": _("image"),
    "interrupted": _("The server stopped before the answer was complete."),
    "length": _("The answer reached its length limit."),
    "loading": _("Loading the model…"),
    "loading_percent": _("Loading the model… {percent} %"),
    "no_models": _("No model is available to you yet. An administrator can add one."),
    "no_text": _("The model ended its answer without a word."),
    "offline": _("Connection lost. Connecting again…"),
    "queued": _("Waiting in the queue…"),
    "queued_ahead": _("{count} ahead of you"),
    "reasoning": _("Reasoning"),
    "regenerate": _("Write again"),
    "request_failed": _("The server could not be reached."),
    "retry": _("Try again"),
    "state_asleep": _("loads on the first message"),
    "state_loading": _("loading"),
    "state_ready": _("ready"),
    "stopped": _("You stopped this answer."),
    "tokens": _("{count} tokens"),
    "untitled": _("New conversation"),
    "you": _("You"),
}


def get_strings() -> dict[str, str]:
    """Key to text, translated for the current request."""
    return {key: str(text) for key, text in _STRINGS.items()}
