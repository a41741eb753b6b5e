"""Every request field of the generating endpoints, in one of three classes: the table behind docs/api.md.

Honoured fields are the typed ones of `schemas`. What stands here is the rest: bookkeeping fields, which cannot
change an answer and are accepted; and refused ones, which would change it, so that anything but a neutral value
is a 400 that names the field. A field in no table is a 400 too: a misspelt parameter is never ignored in silence.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from apps.core.errors import InvalidRequest, UnsupportedParameter

# field -> why it may be ignored
BOOKKEEPING: dict[str, str] = {
    "user": "an end-user id; usage is booked on the key",
    "safety_identifier": "an end-user id",
    "metadata": "labels for the caller's own records",
    "client_metadata": "labels that Codex and agents send along",
    "store": "completions are not stored",
    "service_tier": "there is one tier",
    "stream_options": "where it is not honoured: responses have their usage always, and no padding",
    "prediction": "a hint for speed; the answer is the same without it",
    "prompt_cache_key": "a hint for speed; prefixes are cached for every request",
    "prompt_cache_retention": "a hint for speed",
    "prompt_cache_options": "a hint for speed",
    "request_id": "vLLM's name for the request; send the header x-request-id",
    "priority": "vLLM's scheduling order; it changes when, not what",
    "cache_salt": "vLLM's cache partition; the answer is the same",
    "truncation": "sent by clients of the Responses API; an overlong prompt is always a 400",
    "include": "sent by clients of the Responses API: extra output of tools this server does not run",
    "thread_id": "Jan's own id of a conversation",
    "conversation_id": "a client's own id of a conversation",
    "session_id": "a client's own id",
    "chat_id": "Open WebUI's own id",
    "parent_id": "Open WebUI's own id",
    "background_tasks": "Open WebUI's own switches",
    "provider": "OpenRouter's routing; there is one provider",
    "transforms": "OpenRouter's prompt compression; an overlong prompt is always a 400",
    "usage": "OpenRouter's switch for usage, which is always counted",
    "keep_alive": "Ollama's unload time; the model's own setting counts",
    "cache_prompt": "llama.cpp's prefix cache; always on",
    "timings_per_token": "llama.cpp's measurements",
    "return_progress": "llama.cpp's measurements",
}

# of queries: field -> why it may be ignored
QUERY_BOOKKEEPING: dict[str, str] = {
    "include": "an item is shown with all that is kept of it",
    "include_obfuscation": "no padding is made",
}

# field -> the values that ask for what happens anyway; null is always one of them
_SHARED_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (-1,),
    "prompt_logprobs": (0, False),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "logits_processors": ([],),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "typical_p": (1, 1.0),
    "top_a": (0, 0.0),
    "mirostat": (0,),
    "dry_multiplier": (0, 0.0),
    "grammar": ("",),
    "add_special_tokens": (),
}
CHAT_NEUTRAL: dict[str, tuple[Any, ...]] = _SHARED_NEUTRAL | {
    "best_of": (1,),
    "audio": (),
    "modalities": (["text"], []),
    "moderation": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "add_generation_prompt": (True,),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "echo": (False,),
    "plugins": ([],),
    "previous_response_id": (),
    "models": ([],),
}
COMPLETION_NEUTRAL: dict[str, tuple[Any, ...]] = _SHARED_NEUTRAL | {
    "prompt_embeds": (),
}
# of /v1/responses
RESPONSES_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "context_management": ([],),
    "image": (),
    "moderation": (),
    "prompt": (),
}

# of /v1/embeddings, /v1/rerank and /v1/score
EMBEDDING_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "embed_dtype": ("float32",),
    "endianness": ("little", "native"),
    "late_chunking": (False,),
}
RANKING_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "mm_processor_kwargs": ({},),
    "rank_fields": (["text"],),
    "return_embeddings": (False,),
}


def check_fields(
    raw: Mapping[str, msgspec.Raw],
    honoured: frozenset[str],
    neutral: Mapping[str, tuple[Any, ...]],
    bookkeeping: Mapping[str, str] = BOOKKEEPING,
) -> None:
    """Raises UnsupportedParameter or InvalidRequest (code unknown_parameter), naming the field."""
    for name, value in raw.items():
        if name in honoured or name in bookkeeping:
            continue
        if name not in neutral:
            raise InvalidRequest(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
        given = msgspec.json.decode(value)
        if given is not None and given not in neutral[name]:
            raise UnsupportedParameter(_describe_refusal(name, neutral[name]), param=name)


def _describe_refusal(name: str, neutral: tuple[Any, ...]) -> str:
    allowed = ", ".join(msgspec.json.encode(value).decode() for value in (*neutral, None))
    return f"'{name}' is not supported here: it would change the answer. Leave it out, or send {allowed}."
