"""An `Embed` or `Score` message to what the pooling engine needs: the tokens of every input, within the model's limits.

Past this file only valid requests exist. Blocking (tokenization): runs in a thread pool. Starts nothing.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from gpu_worker.frontend.errors import RequestRejected, check_text, invalid, unsupported
from gpu_worker.frontend.sampling import check_token_ids
from gpu_worker.protocol import Embed, InputKind, Score
from gpu_worker.tasks.pooling.recipe import Recipe
from gpu_worker.tasks.pooling.request import RowOptions, Sequence
from gpu_worker.tasks.pooling.tokens import InputTokenizer

# What repositories call the prompt of a kind; one that names none has none for it, not its default.
_PROMPTS_OF: dict[InputKind, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class PoolingLimits:
    """What the model's weights allow."""

    max_model_len: int  # tokens of one input
    vocab_size: int
    dimensions: int


class PreparedInputs(NamedTuple):
    """A request that is valid for this model."""

    sequences: list[Sequence]
    num_tokens: int
    options: RowOptions


class _Item(NamedTuple):
    """One input, as the client named it."""

    text: str
    second: str | None
    param: str
    num_skipped: int = 0


class PoolingFrontend:
    """Tokenizer and prompts of one model. Thread-safe."""

    def __init__(self, tokenizer: InputTokenizer, recipe: Recipe, limits: PoolingLimits) -> None:
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._limits = limits
        self._count_prompt = cache(tokenizer.count_prompt)

    def prepare(self, request: Embed | Score) -> PreparedInputs:
        """Raises RequestRejected, which says everything the client may know."""
        if isinstance(request, Score):
            sequences, options = self._prepare_pairs(request), RowOptions()
        else:
            sequences, options = self._prepare_inputs(request), self._read_options(request)
        return PreparedInputs(sequences, sum(len(sequence.token_ids) for sequence in sequences), options)

    def _read_options(self, request: Embed) -> RowOptions:
        size = self._limits.dimensions
        if request.dimensions is not None and not 1 <= request.dimensions <= size:
            raise invalid(f"This model's embeddings have {size} dimensions: 'dimensions' is 1 to {size}.", "dimensions")
        return RowOptions(
            dimensions=request.dimensions,
            normalize=self._recipe.normalizes if request.normalize is None else request.normalize,
        )

    def _prepare_inputs(self, request: Embed) -> list[Sequence]:
        if not request.inputs:
            raise invalid("'input' must not be empty.", "input")
        prompt = self._find_prompt(request)
        num_skipped = self._count_prompt(prompt) if prompt and not self._recipe.pools_prompt else 0
        sequences: list[Sequence | None] = [None] * len(request.inputs)
        items: dict[int, _Item] = {}
        for index, given in enumerate(request.inputs):
            param = _name_item("input", index, len(request.inputs))
            if isinstance(given, str):
                items[index] = _Item(prompt + check_text(given, param), None, param, num_skipped)
            else:
                sequences[index] = self._take_token_ids(given, request, param)
        for index, sequence in zip(items, self._encode(list(items.values()), request.max_tokens), strict=True):
            sequences[index] = sequence
        return [sequence for sequence in sequences if sequence is not None]

    def _prepare_pairs(self, request: Score) -> list[Sequence]:
        queries, documents = request.queries, request.documents
        if not documents or len(queries) not in (1, len(documents)):
            raise invalid("There must be one query, or one for each document.", request.query_param)
        items = []
        for index, document in enumerate(documents):
            query = check_text(queries[index % len(queries)], request.query_param)
            param = _name_item(request.document_param, index, len(documents))
            items.append(_Item(query, check_text(document, param), param))
        return self._encode(items, request.max_tokens)

    def _find_prompt(self, request: Embed) -> str:
        """What is put before each text: by name, by kind, or the repository's default. Empty for none."""
        prompts = self._recipe.prompts
        if request.prompt_name is not None:
            if request.prompt_name not in prompts:
                known = f"Its prompts are: {', '.join(sorted(prompts))}." if prompts else "It has none."
                raise invalid(f"This model has no prompt {request.prompt_name!r}. {known}", "prompt_name")
            if any(not isinstance(given, str) for given in request.inputs):
                raise unsupported("Token ids are taken as they are: they cannot have a prompt.", "prompt_name")
            return prompts[request.prompt_name]
        names = _PROMPTS_OF[request.input_kind] if request.input_kind else (self._recipe.default_prompt,)
        return next((prompts[name] for name in names if name in prompts), "")

    def _take_token_ids(self, token_ids: list[int], request: Embed, param: str) -> Sequence:
        check_token_ids(token_ids, self._limits.vocab_size, param)
        limit = self._read_limit(request.max_tokens)
        if limit is not None:
            token_ids = token_ids[:limit]
        return self._check(Sequence(token_ids, [0] * len(token_ids)), param)

    def _encode(self, items: list[_Item], max_tokens: int | None) -> list[Sequence]:
        """Tokenize; what is too long is cut where that is asked for, else refused."""
        limit = self._read_limit(max_tokens)
        seconds = [item.second for item in items if item.second is not None]
        encoded = self._tokenizer.encode([item.text for item in items], seconds or None)
        sequences = []
        for item, whole in zip(items, encoded, strict=True):
            sequence = whole
            if limit is not None and len(whole.token_ids) > limit:
                sequence = self._cut(item, limit)
            sequences.append(self._check(sequence, item.param)._replace(num_skipped=item.num_skipped))
        return sequences

    def _cut(self, item: _Item, limit: int) -> Sequence:
        sequence = self._tokenizer.cut(item.text, item.second, limit)
        if sequence is None:
            raise invalid("So few tokens leave no room for the text.", "truncate_prompt_tokens")
        return sequence

    def _read_limit(self, max_tokens: int | None) -> int | None:
        """To how many tokens an input is cut; None: not at all."""
        if max_tokens is None:
            return None
        most = self._limits.max_model_len
        if max_tokens != -1 and not 1 <= max_tokens <= most:
            raise invalid(f"It must be from 1 to {most}, or -1 for that.", "truncate_prompt_tokens")
        return most if max_tokens == -1 else max_tokens

    def _check(self, sequence: Sequence, param: str) -> Sequence:
        num_tokens, most = len(sequence.token_ids), self._limits.max_model_len
        if num_tokens == 0:
            raise invalid("The input must not be empty.", param)
        if num_tokens > most:
            raise RequestRejected(
                "context_length_exceeded",
                f"This model's maximum context length is {most} tokens. However, your {param} resulted in {num_tokens} "
                f"tokens. Please reduce its length, or have it cut by truncate_prompt_tokens=-1.",
                param,
            )
        return sequence


def _name_item(param: str, index: int, count: int) -> str:
    return param if count == 1 else f"{param}[{index}]"
