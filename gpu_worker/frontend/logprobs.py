"""Log-probabilities in the protocol's form: token strings and their exact bytes."""

from gpu_worker.engine.request import TokenLogprobs, TokenOutput
from gpu_worker.frontend.tokenizer import TextTokenizer
from gpu_worker.protocol import TokenLogprob, TopLogprob


def describe_logprobs(tokenizer: TextTokenizer, token_id: int, logprobs: TokenLogprobs) -> TokenLogprob:
    """The sampled token and its alternatives at one position. `token` of a partial character shows U+FFFD."""
    top = []
    for other_id, logprob in zip(logprobs.top_token_ids, logprobs.top_logprobs, strict=True):
        other_bytes = tokenizer.token_bytes(other_id)
        top.append(TopLogprob(other_id, other_bytes.decode(errors="replace"), logprob, other_bytes))
    token_bytes = tokenizer.token_bytes(token_id)
    return TokenLogprob(token_id, token_bytes.decode(errors="replace"), logprobs.logprob, token_bytes, top)


def describe_prompt(tokenizer: TextTokenizer, output: TokenOutput) -> list[TokenLogprob]:
    """The tokens of the prompt that an output speaks of."""
    entries = output.prompt_logprobs or []
    token_ids = output.request.prompt_token_ids[output.prompt_start : output.prompt_start + len(entries)]
    return [describe_logprobs(tokenizer, *entry) for entry in zip(token_ids, entries, strict=True)]
