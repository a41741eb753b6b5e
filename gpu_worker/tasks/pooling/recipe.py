"""How a repository says its vectors or scores are made: the files of sentence-transformers. Reads JSON, no weights.

https://sbert.net/docs/sentence_transformer/usage/custom_models.html. A repository without these files gets what is
usual for its architecture (`make_plain_recipe`).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Activation = Literal["Identity", "Sigmoid", "Tanh", "ReLU", "GELU", "SiLU"]

# In the order in which several are joined.
_OLD_MODES: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_TRANSFORMER_TASKS = ("feature-extraction", "sequence-classification")
_SIZES = frozenset(["padding", "truncation", "max_length", "return_tensors"])


class RecipeError(ValueError):
    """The repository asks for something that cannot be done here; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class DenseStep:
    """A linear layer over the vector, its weights in `folder`."""

    folder: Path
    activation: Activation


@dataclass(frozen=True, slots=True)
class NormalizeStep:
    """To unit length, with other steps after it."""


@dataclass(frozen=True, slots=True)
class ChatForm:
    """How a pair becomes a conversation of a query and a document, rendered by the tokenizer's chat template."""

    has_parts: bool = False  # whether a message's content is a list of parts
    instruction: str = ""  # the system message; empty for none
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    keeps_ending: bool = True  # whether what the template writes behind the pair survives a cut


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """A decoder's next token says how well a document fits: by the logit of one token, less that of another."""

    yes: int
    no: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What happens between the model's last layer and the answer, and before its first."""

    model_folder: Path
    modes: tuple[PoolingMode, ...] = ("mean",)  # several are joined
    pools_prompt: bool = True
    steps: tuple[DenseStep | NormalizeStep, ...] = ()
    normalizes: bool = True  # in the end
    max_length: int | None = None
    lower_cases: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    activation: Activation = "Sigmoid"  # of a cross-encoder's one logit
    answer_tokens: AnswerTokens | None = None  # of a cross-encoder that is a decoder
    chat: ChatForm | None = None  # None: the tokenizer knows pairs


def make_plain_recipe(folder: Path, *, is_decoder: bool) -> Recipe:
    """What is usual: the mean of an encoder's tokens, a decoder's last token, to unit length."""
    return Recipe(folder, modes=("lasttoken",) if is_decoder else ("mean",))


def read_embedding_recipe(folder: Path) -> Recipe:
    """By `modules.json`. Raises RecipeError."""
    modules = [(_get_type(module), folder / module.get("path", "")) for module in _read_json(folder / "modules.json")]
    if not modules or modules[0][0] != "Transformer":
        raise RecipeError("The first of its modules is no Transformer.")
    model_folder = modules[0][1]
    modes: tuple[PoolingMode, ...] = ("mean",)
    pools_prompt = True
    steps: list[DenseStep | NormalizeStep] = []
    for kind, path in modules[1:]:
        if kind == "Pooling":
            modes, pools_prompt = _read_pooling(_read_json(path / "config.json"))
        elif kind == "Dense":
            steps.append(_read_dense(path))
        elif kind == "Normalize":
            steps.append(NormalizeStep())
        elif kind != "Dropout":
            raise RecipeError(f"Its module {kind} is not supported.")
    normalizes = bool(steps) and isinstance(steps[-1], NormalizeStep)
    settings = _read_json(folder / "config_sentence_transformers.json")
    return Recipe(
        model_folder,
        modes=modes,
        pools_prompt=pools_prompt,
        steps=tuple(steps[:-1] if normalizes else steps),
        normalizes=normalizes,
        prompts={name: text or "" for name, text in (settings.get("prompts") or {}).items()},
        default_prompt=settings.get("default_prompt_name"),
        **_read_transformer(model_folder),
    )


def read_scoring_recipe(folder: Path) -> Recipe:
    """Of a cross-encoder with one logit, or of a decoder that answers yes or no. Raises RecipeError."""
    settings = _read_json(folder / "config_sentence_transformers.json")
    modules = _read_json(folder / "modules.json") or [{"type": "sentence_transformers.Transformer"}]
    kinds = [_get_type(module) for module in modules]
    if kinds not in (["Transformer"], ["Transformer", "LogitScore"]):
        raise RecipeError(f"Cross-encoders of the modules {', '.join(kinds)} are not supported.")
    model_folder = folder / modules[0].get("path", "")
    answer_tokens = _read_answer_tokens(folder / modules[1].get("path", "")) if len(kinds) > 1 else None
    instruction = (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or ""
    chat = _read_chat_form(_find_transformer(model_folder), instruction)
    if instruction and chat is None:
        raise RecipeError("Cross-encoders with a prompt of their own are not supported.")
    config = _read_json(model_folder / "config.json")
    named = (
        settings.get("activation_fn")
        or (config.get("sentence_transformers") or {}).get("activation_fn")
        or config.get("sbert_ce_default_activation_function")
    )
    activation = _read_activation(named) if named else "Sigmoid"
    task = "sequence-classification" if answer_tokens is None else "text-generation"
    return Recipe(
        model_folder,
        activation=activation,
        answer_tokens=answer_tokens,
        chat=chat,
        **_read_transformer(model_folder, task),
    )


def _get_type(module: dict[str, Any]) -> str:
    """The class's own name, which stayed when its module moved."""
    package, _, name = str(module.get("type")).rpartition(".")
    if package.partition(".")[0] != "sentence_transformers":
        raise RecipeError(f"Its module {module.get('type')} is code of its own.")
    return name


def _find_transformer(folder: Path) -> dict[str, Any]:
    found = next((folder / name for name in _TRANSFORMER_FILES if (folder / name).is_file()), None)
    return _read_json(found) if found is not None else {}


def _read_transformer(folder: Path, task: str = "feature-extraction") -> dict[str, Any]:
    config = _find_transformer(folder)
    tasks = (task,) if task == "text-generation" else _TRANSFORMER_TASKS
    if config and config.get("transformer_task", "feature-extraction") not in tasks:
        named = config.get("transformer_task", "feature-extraction")
        raise RecipeError(f"Its transformer is for {named}, which is not supported.")
    return {"max_length": config.get("max_seq_length"), "lower_cases": bool(config.get("do_lower_case"))}


def _read_answer_tokens(folder: Path) -> AnswerTokens:
    config = _read_json(folder / "config.json")
    if not isinstance(config.get("true_token_id"), int) or config.get("module_input_name") not in (
        None,
        "causal_logits",
    ):
        raise RecipeError("Its LogitScore module is of a kind that is not supported.")
    return AnswerTokens(config["true_token_id"], config.get("false_token_id"))


def _read_chat_form(transformer: dict[str, Any], instruction: str) -> ChatForm | None:
    """Where the library renders pairs by the chat template: it does what its own files name."""
    form = (transformer.get("modality_config") or {}).get("message")
    if form is None:
        return None
    options = transformer.get("processing_kwargs") or {}
    template_kwargs = dict(options.get("chat_template") or {})
    keeps_ending = bool(template_kwargs.pop("restore_suffix", True))
    if any(options[key] for key in options if key != "chat_template") or _SIZES & template_kwargs.keys():
        raise RecipeError("Its processing_kwargs are not supported.")
    return ChatForm(form.get("format") != "flat", instruction, template_kwargs, keeps_ending)


def _read_pooling(config: dict[str, Any]) -> tuple[tuple[PoolingMode, ...], bool]:
    named = config.get("pooling_mode") or [mode for key, mode in _OLD_MODES.items() if config.get(key)] or "mean"
    modes = (named,) if isinstance(named, str) else tuple(named)
    for mode in modes:
        if mode not in get_args(PoolingMode):
            raise RecipeError(f"Its pooling mode {mode!r} is not supported.")
    return modes, config.get("include_prompt", True) is not False


def _read_dense(folder: Path) -> DenseStep:
    config = _read_json(folder / "config.json")
    names = [config.get(key, "sentence_embedding") for key in ("module_input_name", "module_output_name")]
    if config.get("use_residual") or any(name not in ("sentence_embedding", None) for name in names):
        raise RecipeError("Its Dense module is of a kind that is not supported.")
    return DenseStep(folder, _read_activation(config.get("activation_function", "torch.nn.modules.activation.Tanh")))


def _read_activation(name: str) -> Activation:
    package, _, kind = name.rpartition(".")
    if package.partition(".")[0] != "torch" or kind not in get_args(Activation):
        raise RecipeError(f"Its activation {name} is not supported.")
    return kind  # type: ignore[return-value]


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RecipeError(f"{path.name} is not JSON.") from error
