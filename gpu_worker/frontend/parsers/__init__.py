"""The formats of reasoning and tool calls that are known: chosen by what a model's files say, or by name.

A new format is one file and one entry in a tuple here (and its name in `gpu_worker.protocol.config`). The order
matters: what is more particular comes first.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from gpu_worker.frontend.parsers.deepseek import DeepseekParser, KimiParser
from gpu_worker.frontend.parsers.gemma import FunctionGemmaParser, GemmaParser
from gpu_worker.frontend.parsers.glm import GlmParser
from gpu_worker.frontend.parsers.granite import GraniteParser
from gpu_worker.frontend.parsers.harmony import HarmonyParser, HarmonyReasoningParser
from gpu_worker.frontend.parsers.hermes import HermesParser
from gpu_worker.frontend.parsers.llama import LlamaParser
from gpu_worker.frontend.parsers.minimax import MinimaxParser
from gpu_worker.frontend.parsers.mistral import MistralParser
from gpu_worker.frontend.parsers.pythonic import LfmParser, PythonicParser
from gpu_worker.frontend.parsers.qwen_xml import QwenXmlParser
from gpu_worker.frontend.parsers.reader import CallReader
from gpu_worker.frontend.parsers.response_template import NAME as RESPONSE_TEMPLATE
from gpu_worker.frontend.parsers.response_template import read_response_template
from gpu_worker.frontend.parsers.think import GemmaThinkParser, GraniteThinkParser, MistralThinkParser, ThinkParser

NO_PARSER = "none"
ReasoningParserClass = type[ThinkParser] | type[HarmonyReasoningParser]

REASONING_PARSERS: tuple[ReasoningParserClass, ...] = (
    HarmonyReasoningParser,
    GemmaThinkParser,
    MistralThinkParser,
    GraniteThinkParser,
    ThinkParser,
)
TOOL_CALL_PARSERS: tuple[type[CallReader], ...] = (
    HarmonyParser,
    MinimaxParser,
    QwenXmlParser,
    GlmParser,
    DeepseekParser,
    KimiParser,
    MistralParser,
    FunctionGemmaParser,
    GemmaParser,
    LfmParser,
    GraniteParser,
    HermesParser,
    PythonicParser,
    LlamaParser,
)


class ParserNames(NamedTuple):
    """What the settings say. None: as the model's files say."""

    tool_calls: str | None = None
    reasoning: str | None = None


NO_NAMES = ParserNames()


class ChosenParsers(NamedTuple):
    """What one model's answers are read with; None where they are not."""

    reasoning: ReasoningParserClass | None
    tool_calls: type[CallReader] | None


def choose_parsers(
    template: str,
    tokens: Collection[str] = (),
    response_template: Any = None,
    names: ParserNames = NO_NAMES,
) -> ChosenParsers:
    """The parsers of these names; without a name, those that the model's files speak of.

    The files are the chat template, the tokenizer's added tokens and its response template, which counts where the
    chat template's form is not known. The name "none" stands for no parser. Raises ValueError for a name that is not
    known, or that stands for a response template which is not there.
    """
    own = read_response_template(response_template)
    return ChosenParsers(
        _find_named(names.reasoning, REASONING_PARSERS, own.reasoning)
        if names.reasoning
        else next((parser for parser in REASONING_PARSERS if parser.reads(template)), own.reasoning),
        _find_named(names.tool_calls, TOOL_CALL_PARSERS, own.tool_calls)
        if names.tool_calls
        else next((parser for parser in TOOL_CALL_PARSERS if parser.reads(template, tokens)), own.tool_calls),
    )


def _find_named(name: str, parsers: tuple[Any, ...], own: Any) -> Any:
    if name == NO_PARSER:
        return None
    found = own if name == RESPONSE_TEMPLATE else next((parser for parser in parsers if parser.name == name), None)
    if found is None:
        raise ValueError(f"The model has no parser {name!r}.")
    return found


__all__ = [
    "NO_NAMES",
    "REASONING_PARSERS",
    "TOOL_CALL_PARSERS",
    "ChosenParsers",
    "ParserNames",
    "ReasoningParserClass",
    "choose_parsers",
]
