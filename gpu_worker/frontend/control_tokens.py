"""Keeps the text of a conversation from becoming control tokens: nobody can type the end of a turn and open another.

A tokenizer recognises "<|im_end|>" wherever it stands, in what a user wrote as well as in what the template wrote.
So a mark is put behind the first character of every control token in the client's strings, the template
renders them, and the text between the marks is tokenized piece by piece: no piece holds a whole control token.
A conversation without one stays as it is. Knows nothing of token ids.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpu_worker.frontend.errors import invalid
from gpu_worker.frontend.messages import Message

# Unicode sets these aside for a program's own use: they are in no text that is meant to be read.
_MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))


class CutConversation(NamedTuple):
    """What a template renders, with marks in it. An empty mark: there was nothing to cut."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    template_kwargs: dict[str, Any]
    mark: str = ""

    def split(self, text: str) -> list[str]:
        """The pieces of a rendered text, without the marks."""
        return text.split(self.mark) if self.mark else [text]


class ControlTokens:
    """The control tokens of one model. Thread-safe."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        """Special tokens, and those added tokens that the template writes: "<tool_call>" often is not special."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        written = {token.content for token in added if token.content in template}
        self._special = _compile(special)
        self._all = _compile(special | written)

    def cut(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, template_kwargs: dict[str, Any]
    ) -> CutConversation:
        """The same conversation with a mark in every control token. Raises RequestRejected when no mark is free."""
        strings = list(_find_strings([messages, tools, template_kwargs]))
        if not any(self._all.search(string) for string in strings):
            return CutConversation(messages, tools, template_kwargs)
        free = (mark for mark in _MARKS if not any(mark in string for string in strings))
        if (mark := next(free, None)) is None:
            raise invalid("The text holds every Unicode noncharacter from U+FDD0 to U+FDEF.", "messages")
        return CutConversation(
            [self._cut_message(message, mark) for message in messages],
            _cut(tools, self._all, mark),
            _cut(template_kwargs, self._all, mark),
            mark,
        )

    def _cut_message(self, message: Message, mark: str) -> Message:
        """An assistant's content keeps "<think>" and its like, which it wrote itself and templates look for there."""
        cut = _cut(message, self._all, mark)
        if message["role"] == "assistant":
            cut["content"] = _cut(message["content"], self._special, mark)
        return cut


def _compile(tokens: set[str]) -> re.Pattern[str]:
    """Matches the first character of every token, also of those that overlap or lie in one another."""
    # Some tokenizers have runs of spaces or line breaks as added tokens: they control nothing.
    cuttable = {token for token in tokens if len(token) > 1 and not token.isspace()}
    starts = (f"{re.escape(first)}(?={_match_any(rests)})" for first, rests in _split_first(cuttable).items())
    return re.compile("|".join(starts) or "(?!)")


def _match_any(texts: set[str]) -> str:
    """A pattern of the texts as a tree: some models have hundreds of tokens that begin alike, and prompts are long."""
    if "" in texts:
        return ""
    branches = [re.escape(first) + _match_any(rests) for first, rests in _split_first(texts).items()]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _split_first(texts: set[str]) -> dict[str, set[str]]:
    """First character -> what follows it."""
    rests: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        rests[text[0]].add(text[1:])
    return rests


def _cut(value: Any, pattern: re.Pattern[str], mark: str) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda match: match[0] + mark, value)
    if isinstance(value, dict):
        return {_cut(key, pattern, mark): _cut(item, pattern, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, pattern, mark) for item in value]
    return value


def _find_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _find_strings(key)
            yield from _find_strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find_strings(item)
