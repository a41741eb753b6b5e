"""Tiny random embedding models and cross-encoders as repositories: weights, tokenizer, sentence-transformers' files."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
WORDS = ["query", "passage", ":", *(f"w{i}" for i in range(90))]
VOCAB_SIZE = len(SPECIAL) + len(WORDS)
MAX_LENGTH = 60

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
_DECODER = {"num_key_value_heads": 2, "head_dim": 8}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "mpnet": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2, "local_attention": 8, "global_attn_every_n_layers": 2},
    "electra": {"embedding_size": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
DECODERS: dict[str, dict[str, Any]] = {"qwen3": _DECODER, "mistral": {**_DECODER, "sliding_window": None}}
_WITH_TYPE_IDS = ("bert", "mpnet", "electra", "deberta-v2")


def make_embedder(folder: Path, architecture: str = "bert", *, plain: bool = False, **modules: Any) -> Path:
    """A repository of this architecture. `plain`: without sentence-transformers' files; else see `write_modules`."""
    _save(folder, architecture, AutoModel)
    if not plain:
        write_modules(folder, **modules)
    return folder


def make_reranker(folder: Path, architecture: str = "bert", *, num_labels: int = 1) -> Path:
    """A cross-encoder."""
    _save(folder, architecture, AutoModelForSequenceClassification, num_labels=num_labels)
    return folder


def make_judge(folder: Path, *, has_parts: bool = False, instruction: str = "", **options: Any) -> Path:
    """A decoder that answers yes or no, saved by sentence-transformers itself; `options` of its Transformer."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    _save(folder / "made", "qwen3", AutoModelForCausalLM)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "made")
    text = "[0].text" if has_parts else ""
    tokenizer.chat_template = (
        "{% set names = {'system': 'w1 :', 'query': 'query :', 'document': 'passage :'} %}"
        "{% for message in messages %}{{ names[message.role] }}"
        f" {{{{ message.content{text} }}}} [SEP] {{% endfor %}}{{% if open %}} w2 {{% endif %}} w3 w4"
    )
    tokenizer.save_pretrained(folder / "made")
    transformer = Transformer(str(folder / "made"), transformer_task="text-generation", **options)
    model = CrossEncoder(
        modules=[transformer, LogitScore(WORDS.index("w5") + len(SPECIAL), WORDS.index("w6") + len(SPECIAL))],
        prompts={"judge": instruction} if instruction else None,
        default_prompt_name="judge" if instruction else None,
        device="cpu",
    )
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


def write_modules(
    folder: Path,
    *,
    pooling: dict[str, Any] | None = None,
    dense: tuple[str, int] | None = None,
    normalize: bool = True,
    settings: dict[str, Any] | None = None,
    **transformer: Any,
) -> None:
    """The files that say how a vector is made; `dense` is an activation of torch and an output size."""
    names = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name}" if index else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(names)
    ]
    _write(folder / "modules.json", modules)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False} | transformer)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | (pooling or {}))
    if settings:
        _write(folder / "config_sentence_transformers.json", settings)
    if dense:
        activation, size = dense
        config = {"in_features": 32, "out_features": size, "bias": True, "activation_function": activation}
        _write(folder / "2_Dense" / "config.json", config)
        weights = {"linear.weight": torch.randn(size, 32), "linear.bias": torch.randn(size)}
        save_file(weights, folder / "2_Dense" / "model.safetensors")


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 50 words."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(90)}" for _ in range(rng.randint(1, 50))) for _ in range(count)]


def _save(folder: Path, architecture: str, auto_class: Any, **options: Any) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **_COMMON | (ENCODERS | DECODERS)[architecture] | options)
    auto_class.from_config(config).eval().save_pretrained(folder)
    _make_tokenizer(architecture).save_pretrained(folder)


def _make_tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    is_decoder = architecture in DECODERS
    tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]" if is_decoder else "[CLS] $A [SEP]",
        pair="$A [SEP] $B:1 [SEP]:1" if is_decoder else "[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = ["input_ids", "attention_mask"]
    if architecture in _WITH_TYPE_IDS:
        names.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=MAX_LENGTH,
        model_input_names=names,
        padding_side="left" if is_decoder else "right",
    )


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
