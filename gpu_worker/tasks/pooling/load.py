"""Loads an embedding model or a cross-encoder with everything it is served with. Runs in the engine thread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
)

from gpu_worker.engine.build import find_max_model_len
from gpu_worker.loader import LoadError, make_load_error, read_model
from gpu_worker.protocol import ModelInfo, Task, WorkerConfig, find_commit
from gpu_worker.quantization import describe_quantization
from gpu_worker.tasks.pooling.chat_pairs import ChatPairTokenizer
from gpu_worker.tasks.pooling.engine import PoolingEngine
from gpu_worker.tasks.pooling.frontend import PoolingFrontend, PoolingLimits
from gpu_worker.tasks.pooling.heads import build_embedding_head, build_scoring_head
from gpu_worker.tasks.pooling.model import PoolingModel, RowForm
from gpu_worker.tasks.pooling.recipe import (
    Recipe,
    RecipeError,
    make_plain_recipe,
    read_embedding_recipe,
    read_scoring_recipe,
)
from gpu_worker.tasks.pooling.tokens import InputTokenizer

_SHORT, _LONG = "A short text.", "A text that is a little longer than the other one, so that one of them is padded."


class LoadedPooling(NamedTuple):
    """An engine, its text side, and what the worker says of both."""

    engine: PoolingEngine
    frontend: PoolingFrontend
    info: ModelInfo


def load_pooling(
    config: WorkerConfig, folder: Path, task: Task, on_progress: Callable[[float, str], None]
) -> LoadedPooling:
    """Raises LoadError."""
    try:
        return _load(config, folder, task, on_progress)
    except RecipeError as error:
        raise LoadError(f"{config.model} cannot be served. {error}") from error


def _load(config: WorkerConfig, folder: Path, task: Task, on_progress: Callable[[float, str], None]) -> LoadedPooling:
    recipe = _read_recipe(config, folder, task)
    auto_class = _choose_class(config, recipe, task)
    hf_tokenizer, model = read_model(recipe.model_folder, config, on_progress, auto_class)
    model.config.use_cache = False
    tokenizer = _build_tokenizer(hf_tokenizer, recipe)
    pooling_model = _build_model(model, hf_tokenizer, recipe, task)
    limits = PoolingLimits(
        max_model_len=_find_max_length(model, hf_tokenizer, recipe, config.max_model_len),
        vocab_size=model.config.get_text_config().vocab_size,
        dimensions=_probe(pooling_model, tokenizer, task),
    )
    engine = PoolingEngine(
        pooling_model,
        max_model_len=limits.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
    )
    info = ModelInfo(
        architecture=type(model).__name__,
        engine="pooling",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        max_model_len=limits.max_model_len,
        vocab_size=limits.vocab_size,
        revision=find_commit(folder),
        quantization=describe_quantization(model),
        task=task,
        dimensions=limits.dimensions if task == "embed" else 0,
        prompts=sorted(recipe.prompts),
    )
    return LoadedPooling(engine, PoolingFrontend(tokenizer, recipe, limits), info)


def _read_recipe(config: WorkerConfig, folder: Path, task: Task) -> Recipe:
    if task == "score":
        return read_scoring_recipe(folder)
    if (folder / "modules.json").is_file():
        return read_embedding_recipe(folder)
    return make_plain_recipe(folder, is_decoder=_is_decoder(_read_config(config, folder)))


def _choose_class(config: WorkerConfig, recipe: Recipe, task: Task) -> Any:
    if task == "score":
        return AutoModelForSequenceClassification if recipe.answer_tokens is None else AutoModelForCausalLM
    # of an encoder-decoder only the encoder
    return AutoModelForTextEncoding if _read_config(config, recipe.model_folder).is_encoder_decoder else AutoModel


def _read_config(config: WorkerConfig, folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=config.runs_own_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise make_load_error(error, config, folder) from error


def _is_decoder(config: Any) -> bool:
    """Whether each token sees only those before it, so that the last one alone has seen all."""
    if getattr(config, "use_bidirectional_attention", None) or config.is_encoder_decoder:
        return False
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def _build_model(model: Any, tokenizer: Any, recipe: Recipe, task: Task) -> PoolingModel:
    if task == "score" and recipe.answer_tokens is None and model.config.num_labels != 1:
        raise RecipeError(f"It is a classifier of {model.config.num_labels} labels; a reranker has one.")
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    if model.config.pad_token_id is None:  # by which a decoder that classifies finds its last token
        model.config.pad_token_id = pad_token_id
    form = RowForm(
        output="logits" if task == "score" else "last_hidden_state",
        pad_token_id=pad_token_id,
        uses_type_ids="token_type_ids" in tokenizer.model_input_names,
        keeps_last=recipe.answer_tokens is not None,
    )
    head = build_scoring_head(recipe) if task == "score" else build_embedding_head(recipe, model.device)
    return PoolingModel(model, head, form)


def _build_tokenizer(hf_tokenizer: Any, recipe: Recipe) -> InputTokenizer:
    if recipe.chat is None:
        return InputTokenizer(hf_tokenizer, lower_cases=recipe.lower_cases)
    return ChatPairTokenizer(hf_tokenizer, recipe.chat)


def _probe(model: PoolingModel, tokenizer: InputTokenizer, task: Task) -> int:
    """The width of a row. Raises RecipeError where the model cannot do its task at all."""
    seconds = [_LONG, _SHORT] if task == "score" else None
    try:
        return model.probe(*tokenizer.encode([_SHORT, _LONG], seconds))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise RecipeError(f"A first text could not be computed: {error}") from error


def _find_max_length(model: Any, tokenizer: Any, recipe: Recipe, wanted: int | None) -> int:
    """Tokens of one input: as configured, else as the repository says, at most what the model has positions for."""
    text_config = model.config.get_text_config()
    positions = find_max_model_len(text_config, None)
    embeddings: Any = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if getattr(embeddings, "padding_idx", None) is not None:  # RoBERTa counts from behind it
        positions = min(positions, embeddings.num_embeddings - embeddings.padding_idx - 1)
    if wanted is not None:
        if not 1 <= wanted <= positions:
            raise RecipeError(f"max_model_len is {wanted}, but the model has {positions} positions.")
        return wanted
    return min(recipe.max_length or tokenizer.model_max_length, positions)
