"""Prompts to tokens and tokens to text for their own sake, by the way that a generation's prompt goes.

Blocking: runs in a thread pool. Computes nothing with the tokens.
"""

from gpu_worker.frontend.errors import check_text
from gpu_worker.frontend.prepare import Frontend
from gpu_worker.frontend.sampling import check_token_ids
from gpu_worker.protocol import Detokenize, Detokenized, Tokenize, Tokenized


def tokenize(frontend: Frontend, message: Tokenize) -> Tokenized:
    """As many tokens as the prompt has, also more than the model takes. Raises RequestRejected."""
    request, tokenizer = message.request, frontend.tokenizer
    if isinstance(request.prompt, str):  # here it may be empty
        text = check_text(request.prompt, "prompt")
        token_ids = tokenizer.encode(text, add_special_tokens=message.add_special_tokens)
    else:
        token_ids = frontend.read_prompt(request, add_generation_prompt=message.add_generation_prompt)
    return Tokenized(
        message.id,
        len(token_ids),
        frontend.limits.max_model_len,
        token_ids if message.with_tokens else [],
        [tokenizer.token_string(token_id) or "" for token_id in token_ids] if message.with_strings else None,
    )


def detokenize(frontend: Frontend, message: Detokenize) -> Detokenized:
    """Raises RequestRejected for an id outside the vocabulary."""
    check_token_ids(message.token_ids, frontend.limits.vocab_size, "tokens")
    return Detokenized(message.id, frontend.tokenizer.decode(message.token_ids))
