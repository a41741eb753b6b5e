"""New identifiers: random, unguessable, with a prefix that says what they name."""

import itertools
import os
from hashlib import blake2b

# A keyed hash of a counter cannot be told from random bits by who has not the key. Asking the system each time gives
# up the interpreter lock each time, and the event loop then waits for it behind the ledger's thread.
_counter = itertools.count()
_hash = blake2b(key=os.urandom(32), digest_size=12)
# Else parent and child would go on with the same ids.
os.register_at_fork(after_in_child=lambda: _hash.update(os.urandom(32)))


def new_id(prefix: str) -> str:
    """`prefix` followed by 96 random bits in hex, such as `chatcmpl-5e0c…`. Safe from any thread."""
    hash_ = _hash.copy()
    hash_.update(next(_counter).to_bytes(8))
    return prefix + hash_.hexdigest()


def new_chat_completion_id() -> str:
    """Of one chat completion and of its usage row."""
    return new_id("chatcmpl-")


def new_completion_id() -> str:
    """Of one text completion; with several prompts their usage rows carry it with a suffix."""
    return new_id("cmpl-")


def new_response_id() -> str:
    """Of one response; the ids of its items are made of it."""
    return new_id("resp_")


def new_conversation_id() -> str:
    """Of one conversation of the API."""
    return new_id("conv_")


def new_embedding_id() -> str:
    """Of one request for embeddings, in the ledger."""
    return new_id("embd-")


def new_rerank_id() -> str:
    """Of one ranking of documents."""
    return new_id("rerank-")


def new_score_id() -> str:
    """Of one request for scores."""
    return new_id("score-")


def new_transcription_id() -> str:
    """Of one transcription or translation of a recording, in the ledger."""
    return new_id("transcr-")


def new_file_id() -> str:
    """Of one stored file, and of its content."""
    return new_id("file-")


def new_batch_id() -> str:
    """Of one batch."""
    return new_id("batch_")


def new_batch_line_id() -> str:
    """Of one line of a batch's output."""
    return new_id("batch_req_")


def new_request_id() -> str:
    """Of one HTTP request, where the client sent no usable `x-request-id`."""
    return new_id("req_")
