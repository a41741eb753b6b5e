"""Prompts to tokens and tokens to text for their own sake, by the way that a generation's prompt goes.

Blocking: runs in a thread pool. Computes nothing with the tokens.
"""

from gpu_worker.frontend.errors import check_text, invalid
from gpu_worker.frontend.prepare import Frontend
from gpu_worker.frontend.sampling import check_token_ids
from gpu_worker.protocol import Detokenize, Detokenized, Tokenize, Tokenized

MAX_LISTED = 2**18  # tokens that travel one by one: a frame holds their text, and a web process reads them in no time


def tokenize(frontend: Frontend, message: Tokenize) -> Tokenized:
    """As many tokens as the prompt has, also more than the model takes. Raises RequestRejected, for too many too."""
    request, tokenizer = message.request, frontend.tokenizer
    if isinstance(request.prompt, str):  # here it may be empty
        text = check_text(request.prompt, "prompt")
        token_ids = tokenizer.encode(text, add_special_tokens=message.add_special_tokens)
    else:
        token_ids = frontend.read_prompt(request, add_generation_prompt=message.add_generation_prompt)
    if message.with_tokens or message.with_strings:
        _check_number(token_ids, "prompt" if request.kind == "completion" else "messages")
    return Tokenized(
        message.id,
        len(token_ids),
        frontend.limits.max_model_len,
        token_ids if message.with_tokens else [],
        [tokenizer.token_string(token_id) or "" for token_id in token_ids] if message.with_strings else None,
    )


def detokenize(frontend: Frontend, message: Detokenize) -> Detokenized:
    """Raises RequestRejected for an id outside the vocabulary, and for too many."""
    _check_number(message.token_ids, "tokens")
    check_token_ids(message.token_ids, frontend.limits.vocab_size, "tokens")
    return Detokenized(message.id, frontend.tokenizer.decode(message.token_ids))


def _check_number(token_ids: list[int], param: str) -> None:
    if len(token_ids) > MAX_LISTED:
        raise invalid(f"'{param}' comes to {len(token_ids)} tokens: at most {MAX_LISTED} can be listed.", param)
