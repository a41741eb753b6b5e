"""Tiny random chat models that listen, made from their configurations with processors of their own.

As `tiny_vision`: made once per process and shared. They listen to a second or two, which becomes some dozens of tokens.
"""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedModel, WhisperFeatureExtractor

from tests.tiny_vision import END_TOKEN, TEXT, make_byte_tokenizer, make_random_model

_SPECIAL = ["<pad>", "<s>", END_TOKEN, "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
_SPECIAL += ["<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>"]
NUM_MELS = 8

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2_audio": {  # ignores which logits are asked for: served by the fallback engine
        "seconds": 1,
        "text": {"model_type": "qwen2"},
        "audio": {
            "model_type": "qwen2_audio_encoder",
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "num_mel_bins": NUM_MELS,
            "max_source_positions": 50,
        },
        "token": "<|AUDIO|>",
        "token_field": "audio_token_index",
        "processor": ("Qwen2AudioProcessor", {}),
        "recording": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    },
    "glmasr": {
        "seconds": 2,
        "text": {"model_type": "llama"},
        "audio": {
            "model_type": "glmasr_encoder",
            "hidden_size": 16,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_mel_bins": NUM_MELS,
            "max_position_embeddings": 100,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        },
        "token": "<|pad|>",
        "token_field": "audio_token_id",
        "processor": ("GlmAsrProcessor", {"audio_token": "<|pad|>", "max_audio_len": 2}),
        "recording": "<|begin_of_audio|><|pad|><|end_of_audio|>",
    },
}


@functools.cache
def make_listening_folder(family: str) -> Path:
    """A folder with the family's tiny model, tokenizer, chat template and processor, as a hub repository has them."""
    parts = FAMILIES[family]
    tokenizer = make_byte_tokenizer(_SPECIAL, parts["recording"], audio_token=parts["token"])
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{family}-"))
    config = AutoConfig.for_model(
        family,
        text_config={**TEXT, "vocab_size": len(tokenizer), **parts["text"]},
        audio_config=parts["audio"],
        tie_word_embeddings=False,
        **{parts["token_field"]: tokenizer.convert_tokens_to_ids(parts["token"])},
    )
    make_random_model(AutoModelForMultimodalLM, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(
        feature_size=NUM_MELS, chunk_length=parts["seconds"], return_attention_mask=True
    )
    extractor.save_pretrained(folder)
    class_name, options = parts["processor"]
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": class_name, **options}))
    return folder


@functools.cache
def make_listening_model(family: str) -> PreTrainedModel:
    """The model of the folder, with its ordinary attention."""
    return AutoModelForMultimodalLM.from_pretrained(make_listening_folder(family), dtype=torch.float32).eval()
