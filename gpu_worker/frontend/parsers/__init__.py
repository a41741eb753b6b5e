"""The formats of reasoning and tool calls that are known, chosen by what a model's chat template says."""

from collections.abc import Collection

from gpu_worker.frontend.parsers.hermes import HermesParser
from gpu_worker.frontend.parsers.reader import CallReader
from gpu_worker.frontend.parsers.think import ThinkParser

REASONING_PARSERS = (ThinkParser,)
TOOL_CALL_PARSERS: tuple[type[CallReader], ...] = (HermesParser,)


def find_reasoning_parser(template: str) -> type[ThinkParser] | None:
    """The parser class for the reasoning this template speaks of, if it does."""
    return next((parser for parser in REASONING_PARSERS if parser.reads(template)), None)


def find_tool_call_parser(template: str, tokens: Collection[str] = ()) -> type[CallReader] | None:
    """The parser class for the tool calls this template asks the model to write, if they are known.

    `tokens` are the added tokens of the tokenizer.
    """
    return next((parser for parser in TOOL_CALL_PARSERS if parser.reads(template, tokens)), None)


__all__ = ["REASONING_PARSERS", "TOOL_CALL_PARSERS", "find_reasoning_parser", "find_tool_call_parser"]
