"""Pairs of texts as a decoder reads them that was trained to judge: rendered by its chat template. Any thread may call.

As sentence-transformers has it: one message with the role "query", one with the role "document", before them the
instruction as the system message. What the texts say stays text: they cannot write control tokens.
"""

from collections.abc import Sequence as Items
from typing import Any

import jinja2

from gpu_worker.frontend.control_tokens import ControlTokens
from gpu_worker.frontend.errors import invalid
from gpu_worker.tasks.pooling.recipe import ChatForm, RecipeError
from gpu_worker.tasks.pooling.request import Sequence
from gpu_worker.tasks.pooling.tokens import InputTokenizer

# Texts that share neither their first nor their last token: what is the same in both prompts is the template's.
_FILLERS = ("0", "1 2 3 4")


class ChatPairTokenizer(InputTokenizer):
    """The tokenizer of pairs; single texts it does not take."""

    def __init__(self, tokenizer: Any, form: ChatForm) -> None:
        """Raises RecipeError where the chat template does not show both texts."""
        super().__init__(tokenizer)
        self._form = form
        template = tokenizer.chat_template
        self._control_tokens = ControlTokens(tokenizer, template if isinstance(template, str) else "")
        try:
            prompts = [self._render("atrium query", "atrium document"), *(self._render(f, f) for f in _FILLERS)]
        except (jinja2.TemplateError, ValueError, TypeError, AttributeError) as error:
            raise RecipeError(f"Its chat template cannot render a query and a document: {error}") from error
        if not all(text in "".join(prompts[0]) for text in ("atrium query", "atrium document")):
            raise RecipeError("Its chat template does not show a query and a document.")
        self._ending = _find_common_end(*map(self._tokenize, prompts[1:])) if form.keeps_ending else []

    def encode(self, texts: Items[str], seconds: Items[str] | None = None) -> list[Sequence]:
        """Each pair, without any limit."""
        return [self._encode_pair(*pair) for pair in zip(texts, seconds or texts, strict=True)]

    def cut(self, text: str, second: str | None, max_tokens: int) -> Sequence | None:
        """The same with at most so many tokens; the end of the template stays. None when nothing else would fit."""
        if max_tokens <= len(self._ending):
            return None
        kept = self._encode_pair(text, second or "").token_ids[:max_tokens]
        if self._ending:
            kept[-len(self._ending) :] = self._ending
        return Sequence(kept, [0] * len(kept))

    def _encode_pair(self, query: str, document: str) -> Sequence:
        try:
            token_ids = self._tokenize(self._render(query, document))
        except jinja2.TemplateError as error:
            raise invalid("The model's chat template refuses this query and document.", "query") from error
        return Sequence(token_ids, [0] * len(token_ids))

    def _render(self, query: str, document: str) -> list[str]:
        """The prompt in pieces that are to be tokenized one by one."""
        said = [("system", self._form.instruction)] if self._form.instruction else []
        said += [("query", query), ("document", document)]
        messages = [{"role": role, "content": self._shape(text)} for role, text in said]
        cut = self._control_tokens.cut(messages, None, {})
        text = self._hf.apply_chat_template(cut.messages, tokenize=False, **self._form.template_kwargs)
        return cut.split(str(text))

    def _shape(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._form.has_parts else text

    def _tokenize(self, pieces: list[str]) -> list[int]:
        if self._backend is not None:
            encodings = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
            return [token_id for encoding in encodings for token_id in encoding.ids]
        with self._lock:
            encoded = [self._hf(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
        return [token_id for token_ids in encoded for token_id in token_ids]


def _find_common_end(first: list[int], second: list[int]) -> list[int]:
    """The tokens that both end with; none where that is all of one."""
    size = 0
    for left, right in zip(reversed(first), reversed(second), strict=False):
        if left != right:
            break
        size += 1
    return first[len(first) - size :] if 0 < size < min(len(first), len(second)) else []
